"""The subcommands of `billet`, one file per family of commands."""
