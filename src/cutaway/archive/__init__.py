"""Tar files made of a tree, and trees made of a tar file, where both may be hostile.

paths      opening what lies inside a root, whatever links are in the way
packing    a file or a directory as a tar stream
entries    a tar stream as entries, bounded in memory
sparse     which parts of a sparse entry are stored
unpacking  entries made into files below a directory

Both ends of `cp` use it: the engine on a container's root file system, the command line on the host's.
"""
