"""Programs that try to be paid without an answer, or to hurt their judge: name, source, right classes.

Those of mode stdio are asked for the sum of the two numbers in their input, 3 and 4; functions for f(3, 4) = 7.
"""

# ruff: noqa: E501 (a table)
from __future__ import annotations

from forklight_reward.sandbox.result import Class

AC, WA, CE, RE = Class.ACCEPTED, Class.WRONG_ANSWER, Class.COMPILE_ERROR, Class.RUNTIME_ERROR
TLE, MLE, OLE, SV = Class.TIME_LIMIT, Class.MEMORY_LIMIT, Class.OUTPUT_LIMIT, Class.VIOLATION
Row = tuple[str, str, set[Class]]

ORPHANS = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        for _ in range(300_000): pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"""
DEAF_TO_CPU_LIMIT = """
import resource, signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
for what in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
    try:
        resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
while True: pass
"""
STEALS_FROM_PIPES = """
import glob, os
for path in glob.glob('/proc/[0-9]*/fd/*'):
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, b'started\\n{"value": 7}\\n7\\n')
    except OSError:
        pass
"""
WRITES_ITS_INPUT = """
import os
fd = os.open('/proc/self/fd/0', os.O_RDWR)
os.pwrite(fd, b'9 9', 0)
os.ftruncate(fd, 0)
print(7)
"""
SIGNALS_ALL = """
import os, signal
for pid in range(1, 50):
    if pid != os.getpid():
        for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGUSR1):
            try: os.kill(pid, number)
            except OSError: pass
print(8)
"""
SYSCALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, 0); libc.prctl(4, 0)
print([libc.syscall(number, 0, 0, 0, 0, 0) for number in (101, 155, 161, 165, 246, 272, 298, 308, 321, 425, 435)])
"""
QUICK: list[Row] = [
    ("closes everything", "import os\nos.closerange(0, 256)", {WA, RE}),
    ("closes its output, then waits", "import os\nos.close(1); os.close(2)\nwhile True: pass", {TLE}),
    ("says nothing", "pass", {WA}),
    ("output of white space", "print(' \\t\\n' * 1000)", {WA}),
    ("a prefix", "print(7, end=''); print(0)", {WA}),
    ("joined words", "print('7\\x00')", {WA}),
    ("a digit of another script", "print('\\uff17')", {WA}),
    ("terminal colours", "print('\\x1b[1m7\\x1b[0m')", {WA}),
    ("half a character", "import os; os.write(1, b'7\\xf0\\x9f')", {WA}),
    ("to errors only", "import sys; print(7, file=sys.stderr)", {WA}),
    ("to input", "import os; os.write(0, b'7')", {WA, RE}),
    ("right, then a signal", "import os; print(7, flush=True); os.abort()", {RE}),
    ("right, then an exception", "print(7); raise KeyboardInterrupt", {RE}),
    ("right, then code 3", "import os; os.write(1, b'7'); os._exit(3)", {RE}),
    ("right, then endless", "print(7, flush=True)\nwhile True: pass", {TLE}),
    ("right, then a thread for ever",
     "import threading\nprint(7, flush=True)\nthreading.Thread(target=threading.Event().wait).start()", {TLE}),
    ("right, but endless at exit", "import atexit\nprint(7)\n@atexit.register\ndef f():\n    while True: pass",
     {TLE}),
    ("segmentation fault", "import ctypes; ctypes.string_at(0)", {RE}),
    ("stack overflow in C",
     "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", {RE, MLE, TLE}),
    ("deep recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {RE, MLE, TLE}),
    ("children nobody waits for", ORPHANS, {TLE}),
    ("deaf to the processor's limit", DEAF_TO_CPU_LIMIT, {TLE}),
    ("writes into every pipe", STEALS_FROM_PIPES, {WA, RE}),
    ("writes its own input", WRITES_ITS_INPUT, {RE}),
    ("signals to all", SIGNALS_ALL, {WA, RE, TLE}),
    ("refused calls of the kernel", SYSCALLS, {WA, RE}),
    ("becomes a shell that says yes", "import os; os.execv('/bin/sh', ['sh', '-c', 'echo AC; exit 0'])", {WA}),
    ("asks for the tests", "import os\nprint([x for r, d, f in os.walk('/box') for x in f])", {WA}),
    ("a huge exception", "raise ValueError('x' * (3 << 20))", {OLE, RE}),
    ("waits in a pipe to itself", "import os\nos.mkfifo('/tmp/f'); open('/tmp/f').read()", {TLE}),
    ("links its source to the host", "import os\nos.unlink('/box/main.py'); os.symlink('/etc', '/box/main.py')",
     {WA}),
    ("fills its folder with folders", "import os\nwhile True: os.mkdir('x'); os.chdir('x')", {RE, TLE, MLE}),
    ("fills pipes", "import os\np = [os.pipe() for _ in range(10**6)]", {RE}),
    ("fills sockets",
     "import socket\nx = []\nwhile True:\n    a, b = socket.socketpair(); a.setblocking(0); x += [a, b]\n"
     "    try:\n        while True: a.send(b'x' * 65536)\n    except BlockingIOError: pass", {RE, MLE}),
    ("shared maps of files",
     "import mmap\nf = open('/dev/shm/x', 'w+b'); f.truncate(15 << 20)\nm = mmap.mmap(f.fileno(), 0)\n"
     "m[:] = b'1' * len(m)\nx = bytearray(140 << 20)", {MLE, RE}),
    ("nul in the source", "print(7)\x00", {CE}),
    ("half a character in the source", "print('\ud800')", {WA, CE, RE}),
    ("another encoding", "# coding: no-such-code\nprint(7)", {CE}),
    ("a bomb for the compiler", "x = " + "-" * 200_000 + "1", {CE, RE, MLE}),
    ("a big constant to fold", "x = (1 << 4000) ** 4000 ** 400", {CE, RE, MLE, TLE}),
    ("hook of the interpreter",
     "import sys\nsys.addaudithook(lambda *a: (_ for _ in ()).throw(RuntimeError))\nopen('/box/x', 'w')", {RE}),
    ("says its own report", "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'{\"file\": \"a\", \"size\": 1}\\n7')"
     "\n    except OSError: pass\nprint('no')", {WA}),
    ("a locked terminal", "import os\nos.setsid() if os.getpid() != os.getsid(0) else 0\nopen('/dev/tty').read()", {RE}),
    ("stops its parent", "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP); print(8)", {WA, RE}),
]  # fmt: skip
SLOW: list[Row] = [
    ("endless reading of random", "x = open('/dev/urandom', 'rb').read()", {TLE, MLE, RE}),
    ("pickle that runs", "import pickle\nclass E:\n    def __reduce__(self): return (exec, ('while True: pass',))\n"
     "pickle.loads(pickle.dumps(E()))", {TLE}),
    ("forks in threads", "import os, threading\ndef f():\n    while True:\n        try: os.fork()\n"
     "        except OSError: pass\nfor _ in range(4): threading.Thread(target=f).start()", {TLE, RE, MLE, SV}),
    ("slow output", "import time\nwhile True: print(7, flush=True); time.sleep(0.01)", {TLE}),
    ("asks the kernel for time", "import os\nwhile True: os.getppid()", {TLE}),
    ("dies and is born again", "import os, sys\nos.execv(sys.executable, [sys.executable, '-S', '/box/main.py'])",
     {TLE, RE}),
    ("sorts a quadratic thing", "x = 'a' * 10**6\nwhile True: x.count('a' * 5000 + 'b')", {TLE}),
    ("compresses nothing", "import zlib\nx = zlib.compress(bytes(1 << 26)); y = [zlib.decompress(x) for _ in range(99)]",
     {MLE, RE, TLE}),
]  # fmt: skip

LATER = "import sys\ndef f(a, b):\n    return sys._getframe(1).f_locals\n"
POOL = "import threading\ndef f(a, b):\n    threading.Thread(target=threading.Event().wait).start()\n    return 7"
OVER_REPORT = "import os\ndef f(a, b):\n    [os.dup2(1, fd) for fd in range(3, 64)]\n    return 8"
FUNCTIONS: list[Row] = [
    ("generator", "def f(a, b): yield 7", {RE}),
    ("coroutine", "async def f(a, b): return 7", {RE}),
    ("lambda", "def f(a, b): return lambda: 7", {RE}),
    ("bytes", "def f(a, b): return b'7'", {RE}),
    ("list of one", "def f(a, b): return [7]", {WA}),
    ("class of a number", "class E:\n    __class__ = int\n    def __int__(self): return 7\ndef f(a, b): return E()",
     {RE}),
    ("says that it is JSON", "class E:\n    def __json__(self): return 7\ndef f(a, b): return E()", {RE}),
    ("evil words about itself", "class E(Exception):\n    def __repr__(self): raise SystemExit(0)\n"
     "def f(a, b): raise E()", {RE}),
    ("dictionary that lies", "class E(dict):\n    def items(self): return [('x', 7)]\ndef f(a, b): return E(x=1)",
     {WA, RE}),
    ("half a character", "def f(a, b): return '\\ud800'", {WA}),
    ("negative zero and more", "def f(a, b): return -0.0", {WA}),
    ("infinite", "def f(a, b): return 1e999", {RE}),
    ("over the report", OVER_REPORT, {RE, WA}),
    ("closes the report", "import os\ndef f(a, b):\n    os.closerange(3, 64)\n    return 7", {RE}),
    ("keeps a thread", POOL, {TLE}),
    ("its caller's variables", LATER, {RE, WA}),
    ("interrupts", "def f(a, b): raise KeyboardInterrupt", {RE}),
    ("leaves by a signal", "import os\ndef f(a, b): os.kill(os.getpid(), 15)", {RE}),
    ("a fork that answers twice", "import os\ndef f(a, b):\n    os.fork()\n    return 7", {WA, RE}),
    ("a line cut short", "import os\ndef f(a, b):\n    os.write(5, b'{\"value\": 7}')\n    os._exit(0)", {RE, WA}),
    ("a value of many lines", "import os\ndef f(a, b):\n    os.write(5, b'\\n\\n\\n')\n    return 8", {WA, RE}),
    ("text of a number", "class E(int):\n    def __repr__(self): return '7'\ndef f(a, b): return E(1)", {WA}),
    ("not here", "f = 7", {RE}),
    ("wants more", "def f(a, b, c): return 7", {RE}),
    ("hides the printer", "import sys\nsys.stdout = None\ndef f(a, b): return 8", {WA}),
    ("new machinery", "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef f(a, b): return 8",
     {RE, WA}),
    ("hook on every call", "import sys\nsys.setprofile(lambda f, e, a: f.f_locals.update(value=7))\n"
     "def f(a, b): return 8", {WA, RE}),
    ("frames of the caller", "import sys, ctypes\ndef f(a, b):\n    g = sys._getframe(1)\n"
     "    g.f_locals['reply'] = '{\"value\": 7}'\n"
     "    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(g), ctypes.c_int(0))\n    return 8", {WA, RE}),
    ("waits for input", "def f(a, b): return 7 if input() else 8", {RE}),
    ("nesting at the edge", "def f(a, b):\n    x = 7\n    for _ in range(900): x = [x]\n    return x", {WA, RE}),
]  # fmt: skip
