# Joins the chat page into one HTML file and writes it as C: cmake -DOUT=page_data.c -P embed.cmake
#
# Every <script src="X"></script> and <link rel="stylesheet" href="X"> of index.html is replaced by the file it names, so
# the page is one answer. Its security policy lists the SHA-256 of each block: nothing else runs, whatever a model says.
cmake_minimum_required(VERSION 3.25)
set(folder ${CMAKE_CURRENT_LIST_DIR})
file(READ ${folder}/index.html html)

# csp_source(OUT TEXT): 'sha256-...' with the digest in base64, which CMake has only in hex.
function(csp_source out text)
  set(alphabet ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/)
  string(SHA256 hex "${text}")
  string(APPEND hex 00) # 32 bytes and one: eleven groups of three
  set(base64 "")
  foreach(at RANGE 0 60 6)
    string(SUBSTRING ${hex} ${at} 6 group)
    foreach(shift 18 12 6 0)
      math(EXPR digit "(0x${group} >> ${shift}) & 63")
      string(SUBSTRING ${alphabet} ${digit} 1 digit)
      string(APPEND base64 ${digit})
    endforeach()
  endforeach()
  string(SUBSTRING ${base64} 0 43 base64) # the last digit stands for the byte that was added
  set(${out} "'sha256-${base64}='" PARENT_SCOPE)
endfunction()

# inline_all(TAG PATTERN SOURCES): each match of PATTERN becomes <TAG>its file</TAG>, its hash goes to SOURCES.
function(inline_all tag pattern sources)
  set(found "")
  string(REGEX MATCHALL "${pattern}" lines "${html}")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "${pattern}" "\\1" file "${line}")
    file(READ ${folder}/${file} text)
    if(text MATCHES "</${tag}|<!--")
      message(FATAL_ERROR "${file} contains what would end or hide its <${tag}>: ${CMAKE_MATCH_0}")
    endif()
    string(PREPEND text "\n")
    csp_source(source "${text}")
    string(REPLACE "${line}" "<${tag}>${text}</${tag}>" html "${html}")
    string(APPEND found " ${source}")
  endforeach()
  set(html "${html}" PARENT_SCOPE)
  set(${sources} "${found}" PARENT_SCOPE)
endfunction()
inline_all(style "<link rel=\"stylesheet\" href=\"([a-z]+\\.css)\">" styles)
inline_all(script "<script src=\"([a-z]+\\.js)\"></script>" scripts)

set(policy "default-src 'none'; script-src${scripts}; style-src${styles}; img-src data:; connect-src 'self'; base-uri 'none'; \
form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")

# c_array(NAME FILE): the file's bytes as a C array.
function(c_array name file)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  file(APPEND ${OUT} "const unsigned char ${name}[] = {\n${bytes}};\nconst size_t ${name}_bytes = sizeof ${name};\n")
endfunction()
file(WRITE ${OUT}.html "${html}")
file(ARCHIVE_CREATE OUTPUT ${OUT}.gz PATHS ${OUT}.html FORMAT raw COMPRESSION GZip COMPRESSION_LEVEL 9)
file(WRITE ${OUT} "/* Made by src/server/page/embed.cmake. */\n#include \"server/page.h\"\n")
file(APPEND ${OUT} "const char page_policy[] = \"${policy}\";\n")
c_array(page_html ${OUT}.html)
c_array(page_gzip ${OUT}.gz)
