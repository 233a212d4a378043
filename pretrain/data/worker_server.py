"""Imported by the server that loader processes come from, and by nothing else.

What ends a run is often sent to its whole process group (by `timeout`, a terminal, batch systems). The ranks decide
when to stop, and need their next batch for that: so the server and its workers are a group of their own.
They end with their rank: the server by a pipe that closes, the workers with the server.
"""

import os

os.setpgrp()
