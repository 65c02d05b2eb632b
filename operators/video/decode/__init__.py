"""Reading a file exactly: packets, probing, seeking, frames and colours."""
