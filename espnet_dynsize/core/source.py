"""Where the plugin can be installed from."""

# Written into model cards. Empty until there is a public repository: nobody may be told
# to install a name from a package index that is not this project's.
SOURCE = ""
