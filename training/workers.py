"""The process that the drawing workers are forked from. Imports nothing heavy, so that it can be started first."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def start_server() -> ForkServerContext:
    """Start the server if it does not run; it loads the modules of the workers meanwhile.

    Forked from a process that has loaded the modules and no GPU, workers start quickly and are safe beside CUDA.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.data"])
    forkserver.ensure_running()
    return context
