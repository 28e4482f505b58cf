/* What cli.c asks of cli_help.c and cli_complete.c: renderings of one option table. */
#ifndef CMD_CLI_HELP_H
#define CMD_CLI_HELP_H

#include "cmd/cli.h"

/* --help, --version, --man and --completions; ends with name == NULL. */
extern const struct cli_opt cli_implied[];

void cli_print_help(const struct cli_cmd *cmd);        /* wrapped to the terminal, 80 columns elsewhere */
void cli_print_man(const struct cli_cmd *cmd);         /* for man(1) */
/* shell: "bash", "zsh" or "fish", or NULL for bash; false for another. */
bool cli_print_completions(const struct cli_cmd *cmd, const char *shell);

#endif
