"""Values of Ais-Node-Url that lead elsewhere than to the target, or that someone on the way may read so."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from support.traps import (
    Peer,
)

#: Not the target's, all on this machine, and each with a listener on the target's own port.
TRAPS = ("127.0.0.2", "127.0.0.3", "127.1.2.3", "127.255.255.254")
OBJECT = "/ais%2F@%23%2Fdst%2Fa.jpg?owt=3"


def spellings(address: str) -> Iterator[str]:
    """One IPv4 address in the ways in which resolvers read it."""
    a, b, c, d = map(int, address.split("."))
    number = a << 24 | b << 16 | c << 8 | d
    yield from (str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{c << 8 | d}")
    yield from (f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}", f"{a:03}.{b:03}.{c:03}.{d:03}")
    yield from (
        f"0x{a:x}.{b}.{c}.{d}",
        f"{a}.{b}.{c}.0{d:o}",
        f"{a}.{b}.{c}.{d}.",
        f"00{a}.{b}.{c}.{d}",
        f"{a + 256}.{b}.{c}.{d}",
    )
    yield from (
        f"[::ffff:{address}]",
        f"[::{address}]",
        f"[::ffff:{a << 8 | b:x}:{c << 8 | d:x}]",
        f"[64:ff9b::{address}]",
    )
    yield from (
        f"[0:0:0:0:0:ffff:{address}]",
        f"[2002:{a << 8 | b:x}:{c << 8 | d:x}::]",
        f"[{address}]",
        f"{address}%00",
    )


def foreign_hosts(target: str) -> list[str]:
    """Hosts that are not the target, though some would lead to it."""
    hosts = [spelling for address in (*TRAPS, target) for spelling in spellings(address)]
    hosts += [
        *TRAPS,
        "0",
        "0.0.0.0",
        "0x0",
        "00000000000",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::1%25lo]",
        "[fe80::1%lo]",
    ]
    hosts += [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost.localdomain",
        "ip6-localhost",
        "a.localhost",
        socket.gethostname(),
    ]
    hosts += [
        f"{target}.example",
        f"{target}.nip.io",
        f"a.{target}",
        f"{target}-a",
        f"{target}@{TRAPS[0]}",
        f"{TRAPS[0]}@{target}",
    ]
    hosts += [
        f"{target}:80@{TRAPS[0]}",
        f"{target}%40{TRAPS[0]}",
        f"{target}%2f{TRAPS[0]}",
        f"{target}#{TRAPS[0]}",
        f"{target}?{TRAPS[0]}",
    ]
    hosts += [
        f"{target}\\{TRAPS[0]}",
        f"{target}\\@{TRAPS[0]}",
        f"{target};{TRAPS[0]}",
        f"{target} {TRAPS[0]}",
        f"{target}\t{TRAPS[0]}",
    ]
    hosts += [
        "127.0.0.\u0661",
        "\uff11\uff12\uff17.0.0.2",
        "127\u30020\u30020\u30022",
        "\u24de",
        "xn--a",
        "a..b",
        ".",
        "..",
        "",
        "a" * 64,
        "a." * 200,
    ]
    # Known by being listed as addresses (cloud metadata and the like) to whoever looks for them.
    return [host for host in hosts if host not in (target, f"{target}.")] + [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
    ]


def hostile_urls(target: Peer) -> Iterator[str]:
    """Entries that lead elsewhere, or that someone on the way may read so."""
    for host in foreign_hosts(target.address):
        for path in (OBJECT, ""):
            yield f"http://{host}:{target.port}{path}"
            yield f"https://{host}:{target.port}{path}"
    for scheme in (
        "ftp",
        "file",
        "gopher",
        "unix",
        "http+unix",
        "ws",
        "javascript",
        "data",
        "dict",
        "HTTP2",
        "",
        "http:http",
    ):
        yield f"{scheme}://{target.host}{OBJECT}"
    for port in ("0", "-1", "65536", "99999999999", "8o", "0x50", " 80", "+80", "", "80:80", "\u0668\u0660", "1e2"):
        yield f"http://{target.address}:{port}{OBJECT}"
    yield from (
        target.host,
        f"//{target.host}{OBJECT}",
        f"/{target.host}",
        OBJECT,
        "http:",
        "http://",
        "http:///",
        "http:/" + target.host,
    )
    yield from (
        f"http:\\\\{target.host}\\a",
        f"http:{target.host}/a",
        f"://{target.host}/a",
        "null",
        "None",
        "*",
        "http://[",
        "http://]/a",
    )
    yield from (
        f"http://user@{target.host}/a",
        f"http://user:word@{target.host}/a",
        f"http://:@{target.host}/a",
        f"http://@{target.host}/a",
    )
    yield from (
        f"http://{target.host}/a#b",
        f"http://{target.host}/a b",
        f"http://{target.host}/a\tb",
        f"http://{target.host}/\u00fc",
    )
    yield from (
        f"http://{target.host}{OBJECT},",
        f",http://{target.host}{OBJECT}",
        f"http://{target.host},,http://{target.host}",
        ",",
        ", ,",
    )
    # Behind a good entry: who forwards it answers for it.
    yield from (
        f"http://{target.host},http://u@{TRAPS[0]}/a",
        f"http://{target.host},file:///etc/passwd",
        f"http://{target.host},x y",
    )
    for climb in climbs():
        yield f"http://{target.host}/{climb}etc"
        yield f"http://{target.host}/ais%2F@%23%2Fdst%2F{climb}{climb}x?owt=3"
        yield f"http://{target.host}/a/{climb.rstrip('/')}"


def climbs() -> list[str]:
    """Two dots and a slash (or one), quoted up to many times."""
    plain = ["../", "..\\", "./", ".\\", "..%2f", "..%5C", "%2e%2e/", "%2E./", ".%2e%2f", "%2e/", "%2e%2e%5c"]
    found = list(plain)
    for climb in plain:
        quoted = climb
        for _ in range(7):
            quoted = quoted.replace("%", "%25").replace("..", "%2e%2e")
            found.append(quoted)
    found.append("%" + "25" * 5000 + "2e%2e/")
    return found
