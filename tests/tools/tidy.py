#!/usr/bin/env python3
"""The style, executable: layers, one home per third-party header, sizes, banned calls, file heads.

  tidy.py [ROOT]     prints each finding as file:line: text; ends with 'N passed, N failed' (files)
"""
import os, re, subprocess, sys

ROOT = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../.."))
# A folder may include itself and these. include/sluice is open to all.
BELOW = {
    "base": [],
    "text": ["base"],
    "load": ["text", "base"],
    "backend": ["base"],
    "model": ["load", "text", "backend", "base"],
    "engine": ["model", "load", "text", "backend", "base"],
    "api": ["load", "text", "base"],
    "bench": ["base"],
    "server": ["bench", "api", "model", "load", "text", "backend", "base"],
}
HOMES = {  # third-party header -> where it may be included
    "uv.h": "src/server/", "microhttpd.h": "src/server/", "sqlite3.h": "src/server/", "cjson/cJSON.h": "src/base/json.c",
    "gnutls/crypto.h": "src/server/sha256.c", "yaml.h": ("src/base/opts.c", "src/base/yaml_json.c"), "pcre2.h": "src/text/", "utf8proc.h": "src/text/", "xxhash.h": "src/engine/",
    "cuda_runtime.h": ("kernels/", "src/backend/"), "cublasLt.h": ("kernels/", "src/backend/"), "nccl.h": "src/backend/",
}
# The Jinja interpreter alone leaves a failed render by longjmp: nothing on the way owns memory.
BANNED = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|system|popen|alloca|setjmp|longjmp)\s*\(")
FN_MAX, FILE_MAX, LINE_MAX = 70, 1000, 110
LONG_FN = re.compile(r"/\* tidy: long function: .+\*/")  # on the line above, with its reason

def strip(text):
    """Comments and string contents blanked, line structure kept."""
    def blank(m): return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)

def functions(lines):
    """(name, first line, last line) of each function body that opens with '{' in column 0."""
    for i, line in enumerate(lines):
        if line != "{": continue
        end = next((j for j in range(i + 1, len(lines)) if lines[j].startswith("}")), i)
        head = " ".join(lines[max(0, i - 3):i])
        m = re.findall(r"(\w+)\s*\(", head)
        yield (m[0] if m else "?"), i + 1, end + 1

def check(path, names):
    rel = os.path.relpath(path, ROOT); out = []; text = open(path, encoding="utf-8").read(); lines = text.split("\n"); code = strip(text)
    def say(n, what): out.append(f"{rel}:{n}: {what}")
    layer = rel.split("/")[1] if rel.startswith("src/") else None
    if not text.lstrip().startswith("/*"): say(1, "no head comment that says what the file is for")
    if len(lines) - 1 > FILE_MAX: say(1, f"{len(lines) - 1} lines, more than {FILE_MAX}")
    for i, line in enumerate(lines, 1):
        if len(line) > LINE_MAX and "clang-format off" not in text: say(i, f"{len(line)} columns")
        if re.search(r"[\x00-\x08\x0b-\x1f]", line): say(i, "control character")
        if re.search(r"\b(TODO|FIXME|XXX)\b", line): say(i, "unfinished: " + line.strip())
        m = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
        if not m: continue
        inc = m.group(1)
        if layer and "/" in inc and inc.split("/")[0] in BELOW and inc.split("/")[0] != layer and inc.split("/")[0] not in BELOW[layer]:
            say(i, f"layer {layer} includes {inc}")
        if layer and inc in HOMES and not rel.startswith(HOMES[inc]): say(i, f"{inc} has its home in {HOMES[inc]}")
    for i, line in enumerate(code.split("\n"), 1):
        m = BANNED.search(line)
        if m and not (m.group(1) in ("setjmp", "longjmp") and rel.startswith("src/text/jinja_")): say(i, f"banned call {m.group(1)}")
        if "getenv(" in line and rel not in ("src/base/opts.c",) and layer: say(i, "getenv outside opts.c")
        if re.search(r"\bassert\s*\(", line) and layer and "static_assert" not in line and "_Static_assert" not in line: say(i, "assert: use ASSERT")
    for name, a, b in functions(code.split("\n")):
        if b - a - 1 > FN_MAX and not any(LONG_FN.search(l) for l in lines[max(0, a - 5):a]): say(a, f"{name} has {b - a - 1} lines, more than {FN_MAX}")
    base = os.path.basename(rel)
    if layer and names.setdefault(base, rel) != rel: say(1, f"file name also used by {names[base]}")
    return out

def main():
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout.split("\n")
    files = [f for f in files if re.match(r"(src|include|kernels|bench|tests)/.*\.(c|h|cu|cuh)$", f)]
    names = {}; bad = 0
    for f in files:
        found = check(os.path.join(ROOT, f), names)
        for line in found: print(line)
        bad += bool(found)
    print(f"{len(files) - bad} passed, {bad} failed"); sys.exit(bool(bad) or not files)

main()
