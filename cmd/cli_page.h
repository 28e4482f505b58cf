/* Pages that a command writes: an HTML file of cmd/ with data put in. */
#ifndef CMD_CLI_PAGE_H
#define CMD_CLI_PAGE_H

#include "cmd/cli.h"

/* CLI_PAGE(name, "cmd/file.html"): the bytes of a file as name .. name_end. The
 * page is a file of its own, so that it can be edited and opened as one. */
#define CLI_PAGE(name, file)                                                                                          \
    extern const char name[], name##_end[];                                                                           \
    __asm__(".section .rodata\n"                                                                                      \
            ".global " #name ", " #name "_end\n"                                                                      \
            ".type " #name ", @object\n" #name ":\n"                                                                  \
            ".incbin \"" file "\"\n" #name "_end:\n"                                                                  \
            ".byte 0\n"                                                                                               \
            ".size " #name ", " #name "_end - " #name "\n"                                                            \
            ".text\n")

/* Writes page [begin, end) to path with data (a reference is taken) in place of
 * its DATA comment; the file appears whole or not at all. */
int cli_page_write(const char *path, bool force, const char *begin, const char *end, json_t *data, struct lm_err *e);

#endif
