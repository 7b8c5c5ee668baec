"""What the system lets a process have, looked at before libraries end without a sentence of their own."""

from __future__ import annotations

import resource

from i3d_jax.system.errors import UserError

# A training run of two processes that read videos has some 50 open.
LEAST_FILES = 64
# JAX and TensorFlow reserve addresses by the gigabyte, and end the process where they get none.
LEAST_ADDRESSES = 4 << 30


def refuse_too_little() -> None:
    """Takes as many open files as the system allows, up to 4096, and refuses limits with which nothing can run.

    Raises:
      UserError: there is room for too few open files or too little memory; it names the limit.
    """
    files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if most_files == resource.RLIM_INFINITY else min(4096, most_files)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most_files))
        files = wanted
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        raise UserError(f"room for {LEAST_FILES} open files was expected, found {files} (ulimit -n)")
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < LEAST_ADDRESSES:
        raise UserError(
            f"at least {LEAST_ADDRESSES >> 10} kB of addresses were expected, found {addresses >> 10} (ulimit -v):"
            " JAX ends without a word where it gets none"
        )
