/* page.h - the chat page as the build embeds it (page/embed.cmake): one HTML file, plain and as
 * gzip, and its Content-Security-Policy. Constant; any thread.
 */
#ifndef SERVER_PAGE_H
#define SERVER_PAGE_H

#include <stddef.h>

extern const unsigned char page_html[], page_gzip[];
extern const size_t page_html_bytes, page_gzip_bytes;
extern const char page_policy[];

#endif
