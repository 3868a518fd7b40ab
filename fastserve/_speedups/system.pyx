# What Python has no name for, of the system: see system.pxd for what the wire uses.

import os

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/prctl.h>
    static int fs_end_with_parent(int number) { return prctl(PR_SET_PDEATHSIG, number, 0, 0, 0); }
    #else
    static int fs_end_with_parent(int number) { (void)number; return 0; }
    #endif
    """
    int fs_end_with_parent(int number)


def end_with_parent(int parent, int number):
    """Have the kernel send this process a signal when its parent ends (Linux).

    parent:  its pid, as it was before the fork: it may have ended already
    """
    if fs_end_with_parent(number) != 0:
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
