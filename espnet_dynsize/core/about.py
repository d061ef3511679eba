"""What the plugin is called by: its version, and where it can be installed from."""

VERSION = "0.2.0"
# Written into model cards. Empty until there is a public repository: nobody may be told
# to install a name from a package index that is not this project's.
SOURCE = ""
