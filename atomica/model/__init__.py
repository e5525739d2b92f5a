"""The model: an encoder with heads, the folder it is saved in, and how it starts from another one."""
