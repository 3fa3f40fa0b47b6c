"""A load balancer's connections, byte for byte: proxied.py PORT CASE HEADER_HEX...

Cases: admitted (logs in behind the header and prints what the server says of it), closed (must be closed without
a login), told (prints the code of the error that comes in place of the greeting, with its SQLSTATE if it has one).
The header may be cut by commas: its parts are sent one by one. @ stands for where the greeting is awaited."""
import hashlib
import socket
import struct
import sys
import time

port, case, header = int(sys.argv[1]), sys.argv[2], sys.argv[3]
USER, PASSWORD = b"app", b"app-Secret_2"

link = socket.create_connection(("127.0.0.1", port))
link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
link.settimeout(30)


def exactly(count):
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def packet():
    start = exactly(4)
    return start[3], exactly(int.from_bytes(start[:3], "little"))


def framed(sequence, payload):
    return struct.pack("<I", len(payload))[:3] + bytes([sequence]) + payload


def answer_to(greeting):
    rest = greeting[greeting.index(b"\0", 1) + 1:]
    scramble = rest[4:12] + rest[4 + 8 + 1 + 2 + 1 + 2 + 2 + 1 + 10:][:12]
    one = hashlib.sha1(PASSWORD).digest()
    two = hashlib.sha1(scramble + hashlib.sha1(one).digest()).digest()
    token = bytes(a ^ b for a, b in zip(one, two))
    # LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
    return (struct.pack("<IIB23x", 1 | 1 << 9 | 1 << 15 | 1 << 19, 1 << 24, 45) + USER + b"\0"
            + bytes([len(token)]) + token + b"mysql_native_password\0")


def query(sql):
    link.sendall(framed(0, b"\x03" + sql))
    columns = packet()[1]
    if columns[:1] == b"\xff":
        raise SystemExit("error %r" % columns)
    for _ in range(columns[0] + 1):
        packet()
    row = packet()[1]
    packet()
    values = []
    while row:
        values.append(row[1:1 + row[0]].decode())
        row = row[1 + row[0]:]
    return values


greeting = None
try:
    for part in header.split(","):
        if part == "@":
            greeting = packet()[1]
        elif part:
            link.sendall(bytes.fromhex(part))
            time.sleep(0.02)
    if case == "told":
        sequence, error = packet()
        assert sequence == 0 and error[:1] == b"\xff", error
        assert link.recv(1) == b"", "more than an error"
        print(int.from_bytes(error[1:3], "little"), error[3:].decode())
        sys.exit()
    greeting = greeting or packet()[1]
    assert greeting[:1] == b"\x0a", greeting
    link.sendall(framed(1, answer_to(greeting)))
    sequence, verdict = packet()
except (EOFError, ConnectionResetError, BrokenPipeError):
    print("closed")
    sys.exit(0 if case == "closed" else 1)
if case == "closed":
    raise SystemExit("let in: %r" % verdict)
assert verdict[:1] == b"\0", verdict
host = query(b"SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()")[0]
user = query(b"SELECT USER()")[0]
print(host, user)
# Stay until the other end of the test has looked at the list of sessions.
if len(sys.argv) > 4:
    sys.stdout.flush()
    sys.stdin.readline()
