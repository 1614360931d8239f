"""A plugin op that tries to get out of its decoder, one way an image: the image's first pixel says which.

``WAYS`` is written as code that runs there. A way returns where it has succeeded, and raises OSError where it was
refused. ``calls`` reach the kernel with arguments that do no harm: whatever it answers but EPERM, EACCES and ENOSYS
says that the call was let through.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from PIL import Image

_MODULE = '''
import ctypes, errno, fcntl, json, mmap, os, platform, resource, signal, socket, subprocess

from PIL import Image
from tvetl_server.plugin_ops import PluginOp

HERE = json.loads(os.environ["ESCAPES"])  # what the test has laid out; the processes come by a file below a root
LIBC = ctypes.CDLL(None, use_errno=True)
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
WAYS = {}


def way(do):
    WAYS[do.__name__] = do
    return do


def each(name, items, do):
    for item in items:
        WAYS[f"{name}_{item if isinstance(item, str) else item[0]}"] = lambda item=item: do(item)


def fails():
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def syscall(number, *arguments):
    """Raises where the call was refused; whatever else the kernel says, it was let through."""
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the numbers here are another processor's")
    passed = [each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments]
    passed += [ctypes.c_long(0)] * (6 - len(passed))
    if LIBC.syscall(ctypes.c_long(number), *passed) < 0 and ctypes.get_errno() in REFUSED:
        fails()
    return True


def process(kind):
    with open(HERE["processes"]) as file:
        return json.load(file)[kind]


def evidence(name):
    return os.path.join(HERE["evidence"], name)


# --- sockets

FAMILIES = [(name, getattr(socket, name, number)) for name, number in (
    ("AF_INET", 2), ("AF_INET6", 10), ("AF_UNIX", 1), ("AF_NETLINK", 16), ("AF_PACKET", 17), ("AF_ALG", 38),
    ("AF_VSOCK", 40), ("AF_KEY", 15), ("AF_BLUETOOTH", 31), ("AF_CAN", 29), ("AF_TIPC", 30), ("AF_XDP", 44))]


def make_socket(family):
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    for kind in kinds:
        try:
            socket.socket(family[1], kind).close()
            return True
        except OSError as error:
            last = error
    raise last


each("socket", FAMILIES, make_socket)


@way
def connect_to_a_server():
    socket.create_connection(("127.0.0.1", HERE["port"]), 1).sendall(b"out")
    return True


@way
def look_up_a_name():
    try:
        return bool(socket.getaddrinfo("localhost", 80))
    except socket.gaierror as error:  # codes of its own
        raise PermissionError(errno.EPERM, str(error)) from error


@way
def send_a_datagram():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", HERE["port"]))
    return True


@way
def listen_at_a_port():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return True


@way
def take_a_listener_that_is_there():
    for descriptor in range(256):
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if name.startswith("socket:"):
            with socket.socket(fileno=os.dup(descriptor)) as one:
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return True
    raise OSError(errno.EPERM, "no listener was left")


@way
def speak_from_a_pair_to_others():
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.sendto(b"out", HERE["unix"])
    return True


# --- files

READS = {
    "by_path": lambda: HERE["outside"],
    "by_dots": lambda: HERE["root"] + "/../outside.txt",
    "by_a_link": lambda: HERE["root"] + "/link.txt",
    "by_a_link_of_a_folder": lambda: HERE["root"] + "/folder/outside.txt",
    "by_proc_self_root": lambda: "/proc/self/root" + HERE["outside"],
    "by_proc_self_cwd": lambda: "/proc/self/cwd/../../../../../../.." + HERE["outside"],
    "passwords": lambda: "/etc/passwd",
    "the_environment_of_this_process": lambda: "/proc/self/environ",
    "the_mounts": lambda: "/proc/self/mountinfo",
    "the_kernels_symbols": lambda: "/proc/kallsyms",
    "a_device": lambda: "/dev/urandom",
    "hardware": lambda: "/sys/kernel/uevent_seqnum",
}
for kind in ("worker", "first", "fork_server"):
    for file in ("environ", "mem", "maps", "fd/3", "cmdline"):
        READS[f"{file.replace('/', '_')}_of_the_{kind}"] = (
            lambda kind=kind, file=file: f"/proc/{process(kind)}/{file}"
        )


def read(item):
    descriptor = os.open(item[1](), os.O_RDONLY)
    try:
        os.read(descriptor, 1)
    except OSError as error:  # mem has nothing at its beginning
        if error.errno in REFUSED:
            raise
    return True


each("read", READS.items(), read)


@way
def list_the_root_folder():
    return bool(os.listdir("/"))


@way
def list_the_folder_of_the_objects():
    return bool(os.listdir(HERE["root"]))


@way
def list_processes():
    return bool(os.listdir("/proc"))


@way
def open_again_what_is_open_to_look():
    looked = os.open(HERE["outside"], os.O_PATH)
    return bool(os.read(os.open(f"/proc/self/fd/{looked}", os.O_RDONLY), 1))


@way
def read_from_a_folder_that_is_open():
    for descriptor in range(256):
        try:
            return bool(os.read(os.open(HERE["outside"].lstrip("/"), os.O_RDONLY, dir_fd=descriptor), 1))
        except OSError as error:
            last = error
    raise last


@way
def change_the_folder():
    os.chdir("/")
    return True


@way
def map_a_file_to_write():
    descriptor = os.open(HERE["inside"], os.O_RDWR)
    mmap.mmap(descriptor, 1)[0] = 1
    return True


def text_to(path, flags):
    return lambda: os.write(os.open(path(), flags, 0o600), b"out") == 3


WRITES = {
    "make_a_file": lambda: text_to(lambda: evidence("made"), os.O_WRONLY | os.O_CREAT)(),
    "make_a_file_in_memory": lambda: text_to(lambda: "/dev/shm/escaped", os.O_WRONLY | os.O_CREAT)(),
    "make_a_file_without_a_name": lambda: text_to(lambda: HERE["evidence"], os.O_RDWR | os.O_TMPFILE)(),
    "write_to_an_object": lambda: text_to(lambda: HERE["inside"], os.O_WRONLY)(),
    "append_to_an_object": lambda: text_to(lambda: HERE["inside"], os.O_WRONLY | os.O_APPEND)(),
    "cut_an_object": lambda: os.truncate(HERE["inside"], 0) or True,
    "cut_an_object_by_opening_it": lambda: os.close(os.open(HERE["inside"], os.O_RDONLY | os.O_TRUNC)) or True,
    "remove_an_object": lambda: os.unlink(HERE["inside"] + ".1") or True,
    "rename_an_object": lambda: os.rename(HERE["inside"] + ".2", evidence("renamed")) or True,
    "make_a_folder": lambda: os.mkdir(evidence("folder")) or True,
    "make_a_link": lambda: os.link(HERE["inside"], evidence("link")) or True,
    "make_a_symbolic_link": lambda: os.symlink("/", evidence("symlink")) or True,
    "make_a_fifo": lambda: os.mkfifo(evidence("fifo")) or True,
    "change_rights": lambda: os.chmod(HERE["inside"], 0o666) or True,
    "change_the_owner": lambda: os.chown(HERE["inside"], os.getuid(), os.getgid()) or True,
    "change_times": lambda: os.utime(HERE["inside"], (0, 0)) or True,
    "set_an_attribute": lambda: os.setxattr(HERE["inside"], "user.out", b"1") or True,
    "write_ones_own_memory_by_file": lambda: bool(os.open("/proc/self/mem", os.O_RDWR)),
    "set_the_log_of_the_kernel": lambda: bool(os.open("/dev/kmsg", os.O_WRONLY)),
    "set_who_dies_first": lambda: text_to(lambda: "/proc/self/oom_score_adj", os.O_WRONLY)(),
}
WAYS.update(WRITES)


@way
def write_by_openat2():
    how = (os.O_WRONLY | os.O_CREAT).to_bytes(8, "little") + (0o600).to_bytes(8, "little") + bytes(8)
    descriptor = LIBC.syscall(437, -100, os.fsencode(evidence("openat2")), how, 24)
    if descriptor < 0:
        fails()
    return os.write(descriptor, b"out") == 3


# --- programs and code

SHELL = ["/bin/sh", "-c", 'echo out > "$0"']


@way
def become_another_program():
    os.execv(SHELL[0], [*SHELL, evidence("exec")])


@way
def become_a_program_in_memory():
    descriptor = os.memfd_create("program", 0)
    with open("/bin/sh", "rb") if os.access("/bin/sh", os.R_OK) else open(os.devnull, "rb") as program:
        os.write(descriptor, program.read())
    os.execve(descriptor, [*SHELL, evidence("memfd")], {})


@way
def start_a_program():
    return subprocess.run([*SHELL, evidence("run")], check=True).returncode == 0


@way
def start_a_shell():
    status = os.system(f"echo out > {evidence('system')}")
    if status:
        raise OSError(errno.EPERM, f"status {status}")
    return True


@way
def spawn_a_program():
    child = os.posix_spawn(SHELL[0], [*SHELL, evidence("spawn")], {})
    if os.waitpid(child, 0)[1]:
        raise OSError(errno.EPERM, "it could not run")
    return True


@way
def fork_a_process():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


@way
def map_memory_as_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return True


@way
def make_memory_code():
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if LIBC.mprotect(ctypes.c_void_p(address & -4096), ctypes.c_size_t(4096), 5):
        fails()
    return True


@way
def map_a_file_in_memory_as_code():
    descriptor = os.memfd_create("code")
    os.ftruncate(descriptor, 4096)
    mmap.mmap(descriptor, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    return True


# --- other processes

KINDS = ("worker", "first", "fork_server", "other_decoder")
SIGNALLED = KINDS
each("signal_the", SIGNALLED, lambda kind: os.kill(process(kind), 0) or True)
each("stop_the", ("fork_server", "other_decoder"), lambda kind: os.kill(process(kind), signal.SIGCONT) or True)
each("queue_a_signal_to_the", ("worker",), lambda kind: syscall(129, process(kind), 0, 0))
each("signal_a_thread_of_the", ("worker",), lambda kind: syscall(234, process(kind), process(kind), 0))
each("trace_the", KINDS, lambda kind: syscall(101, 0x4206, process(kind), 1, 0))
each("read_the_memory_of_the", KINDS, lambda kind: syscall(310, process(kind), 0, 0, 0, 0, 0))
each("write_the_memory_of_the", KINDS[:1], lambda kind: syscall(311, process(kind), 0, 0, 0, 0, 0))
each("open_the_process_of_the", KINDS[:3], lambda kind: syscall(434, process(kind), 0))
each("set_a_limit_of_the", KINDS[:2], lambda kind: resource.prlimit(process(kind), resource.RLIMIT_CORE) and True)
each("set_the_priority_of_the", KINDS[:1], lambda kind: os.setpriority(os.PRIO_PROCESS, process(kind), 5) or True)
each("bind_to_a_cpu_the", KINDS[:1], lambda kind: os.sched_setaffinity(process(kind), os.sched_getaffinity(0)) or True)


@way
def signal_everybody():
    os.kill(-1, 0)
    return True


@way
def signal_the_group():
    os.killpg(0, 0)
    return True


@way
def have_a_signal_sent_by_a_descriptor():
    ours, _ = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, process("worker"))
    return True


@way
def have_a_signal_sent_by_ioctl():
    ours, _ = socket.socketpair()
    fcntl.ioctl(ours, 0x8901, ctypes.c_int(process("worker")))  # FIOSETOWN
    return True


@way
def type_into_a_terminal():
    try:
        fcntl.ioctl(2, 0x5412, b"x")  # TIOCSTI
    except OSError as error:
        if error.errno in REFUSED:
            raise
    return True


@way
def take_addresses_without_end():
    try:
        mmap.mmap(-1, 2**37, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)  # MAP_NORESERVE
    except OSError as error:
        raise PermissionError(errno.EPERM, str(error)) from error
    return True


@way
def open_a_thousand_files():
    opened = []
    try:
        for _ in range(1000):
            opened.append(fcntl.fcntl(0, fcntl.F_DUPFD, 0))
    except OSError as error:
        raise PermissionError(errno.EPERM, str(error)) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


# --- the kernel's other doors, with arguments that it refuses by other codes

DOORS = {
    "io_uring_setup": (425, 0, 0), "io_uring_enter": (426, -1), "io_setup": (206, 0, 0), "bpf": (321, 99, 0, 0),
    "userfaultfd": (323, -1), "perf_event_open": (298, 0), "keyctl": (250, 99), "add_key": (248, 0, 0),
    "request_key": (249, 0), "mount": (165, 0, b"/nowhere", 0, 0, 0), "umount": (166, b"/nowhere"),
    "pivot_root": (155, b"/nowhere", b"/nowhere"), "fsopen": (430, 0), "open_tree": (428, -1, b"/nowhere"),
    "move_mount": (429, -1, b"/nowhere", -1, b"/nowhere"), "unshare": (272, 1), "setns": (308, -1),
    "chroot": (161, b"/nowhere"), "setuid": (105, -1), "setgid": (106, -1), "setresuid": (117, -1, -1, -1),
    "setgroups": (116, 99999999, 0), "capset": (126, 0), "personality": (135, 0xFFFFFFFF),
    "ptrace_me": (101, 99, 0), "kcmp": (312, 1, 1), "pidfd_getfd": (438, -1, 0), "process_madvise": (440, -1),
    "open_by_handle_at": (304, -1, 0, 0), "name_to_handle_at": (303, -1, b"/nowhere", 0, 0, 0),
    "memfd_secret": (447, -1), "shmget": (29, 0, 0, 0), "msgget": (68, -1, 0), "semget": (64, -1, 0),
    "mq_open": (240, b"nothing", 0), "inotify_init1": (294, -1), "fanotify_init": (300, -1),
    "timer_create": (222, 99, 0, 0), "timerfd_create": (283, 99), "eventfd": (290, 0, -1), "signalfd": (289, -1, 0, 0),
    "epoll_create": (291, -1), "syslog": (103, 99), "acct": (163, b"/nowhere"), "swapon": (167, b"/nowhere"),
    "reboot": (169, 0, 0, 0), "init_module": (175, 0, 0, 0), "finit_module": (313, -1, b"", 0),
    "kexec_load": (246, 0, 99999), "sethostname": (170, 0, -1), "settimeofday": (164, -1, 0),
    "clock_settime": (227, 99, 0), "ioperm": (172, -1, -1), "iopl": (173, 99), "quotactl": (179, -1),
    "mlockall": (151, 0), "vmsplice": (278, -1), "splice": (275, -1), "sendfile": (40, -1, -1),
    "accept": (43, -1), "bind": (49, -1), "connect": (42, -1), "setsockopt": (54, -1), "shutdown": (48, -1),
    "prctl_dumpable": (157, 4, 99), "prctl_ptracer": (157, 0x59616D61, -1), "seccomp": (317, 99),
    "landlock": (444, 0, 0, 99), "setrlimit": (160, 99, 0), "setsid": (112,), "tkill": (200, 1, 0),
    "pkey_mprotect": (329, 1, 1, 5, -1), "remap_file_pages": (216, 1), "migrate_pages": (256, 0, -1),
    "renameat2": (316, -1, b"/nowhere", -1, b"/nowhere", 0), "statmount": (457, 0), "clone3": (435, 0, 0),
    "execveat": (322, -1, b"/nowhere", 0, 0, 0),
}
each("call", DOORS.items(), lambda door: syscall(*door[1]))

NAMES = sorted(WAYS)


def plan(params, draw, size):
    def do(image):
        high, low, marked = image.getpixel((0, 0))
        if marked != 77:
            return image
        try:
            outcome = (255, 0, 0) if WAYS[NAMES[256 * high + low]]() else (0, 0, 255)
        except OSError as error:
            outcome = (0, abs(error.errno or 0), 1)
        return Image.new("RGB", image.size, outcome)
    return do, size


OPS = [PluginOp("Escape", {}, plan)]
'''

#: The processes that are attacked.
KINDS = ("worker", "first", "fork_server", "other_decoder")
PIPELINE = json.dumps({"steps": [{"op": "escapes.Escape"}], "output": {"format": "png"}})


def install(folder: Path, here: dict[str, object]) -> dict[str, str]:
    """Lay the package there; gives the settings of a server whose decoders try the ways out that they are sent."""
    folder.mkdir()
    (folder / "escape_ops.py").write_text(_MODULE, encoding="utf-8")
    metadata = folder / "escape_ops-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: escape-ops\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[tvetl.ops]\nescapes = escape_ops:OPS\n", encoding="utf-8")
    return {
        "TVETL_PIPELINE": PIPELINE,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
        "ESCAPES": json.dumps(here),
    }


def tried(folder: Path, here: dict[str, object], ask: Callable[[bytes], tuple[int, bytes]]) -> dict[str, str]:
    """Every way of the package in ``folder``, tried by ``ask``, which gives status and body: what became of each."""
    found = {}
    for number, name in enumerate(_names(folder, here)):
        status, body = ask(picture(number))
        found[name] = outcome_of(body) if status == 200 else f"{status} {json.loads(body)['error']}"
    return found


def numbers(folder: Path, here: dict[str, object], *wanted: str) -> list[int]:
    """What :func:`picture` takes for these."""
    return [_names(folder, here).index(name) for name in wanted]


def _names(folder: Path, here: dict[str, object]) -> list[str]:
    with mock.patch.dict(os.environ, ESCAPES=json.dumps(here)):
        names: list[str] = runpy.run_path(str(folder / "escape_ops.py"))["NAMES"]
    return names


def picture(way: int) -> bytes:
    """A PNG that asks for that one."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (*divmod(way, 256), 77)).save(file, "PNG")
    return file.getvalue()


def outcome_of(answer: bytes) -> str:
    """``out``, or the error."""
    image = Image.open(io.BytesIO(answer)).convert("RGB")
    out, code, failed = image.getpixel((0, 0))  # type: ignore[misc]
    return "out" if out == 255 else os.strerror(code) if failed else "nothing"
