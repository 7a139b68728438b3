"""The launcher, the jail's init and the worker: one program, started by the host with
`python -I -S -B -u <this folder>`. It must never import the host's package."""
