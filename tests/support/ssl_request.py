"""TLS logins whose first packet (SSLRequest) has other flags than the response: ssl_request.py PORT. What is heard after
the login, a line a case."""
import socket
import ssl
import struct
import sys

port = int(sys.argv[1])
ORDINARY = 0x1 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 17 | 1 << 19
SSL, WITH_DB, MULTI, DEPRECATE_EOF, TRACK = 1 << 11, 1 << 3, 1 << 16, 1 << 24, 1 << 23
trusting = ssl.create_default_context()
trusting.check_hostname = False
trusting.verify_mode = ssl.CERT_NONE


def exactly(stream, size):
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read(stream):
    head = exactly(stream, 4)
    return head[3], exactly(stream, int.from_bytes(head[:3], "little"))


def write(stream, number, payload):
    stream.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)


def heard(first, second):
    stream = socket.create_connection(("127.0.0.1", port), timeout=20)
    try:
        read(stream)
        head = lambda flags: struct.pack("<IIB23x", flags, 1 << 24, 45)
        write(stream, 1, head(first | SSL))
        stream = trusting.wrap_socket(stream)
        schema = b"shop\0" if second & WITH_DB else b""
        write(stream, 2, head(second | SSL) + b"raw\0\0" + schema + b"mysql_native_password\0")
        number, answer = read(stream)
        while answer[0] not in (0, 0xFF):
            # Another plugin is asked for; the answer is as empty.
            write(stream, number + 1, b"")
            number, answer = read(stream)
        if answer[0] == 0xFF:
            return "no login: %d" % struct.unpack("<H", answer[1:3])
        for sql in (b"SELECT DATABASE()", b"USE shop", b"SELECT 1; SELECT 2"):
            write(stream, 0, b"\x03" + sql)
        write(stream, 0, b"\x01")
        data = b""
        while True:
            more = stream.recv(65536)
            if not more:
                return data.hex()
            data += more
    except (OSError, EOFError) as error:
        return "closed: " + type(error).__name__


for name, first, second in [
    ("the same", ORDINARY | MULTI | WITH_DB, ORDINARY | MULTI | WITH_DB),
    ("no EOF in the response only", ORDINARY, ORDINARY | DEPRECATE_EOF),
    ("no EOF in the request only", ORDINARY | DEPRECATE_EOF, ORDINARY),
    ("a schema in the response only", ORDINARY, ORDINARY | WITH_DB),
    ("several statements in the response only", ORDINARY, ORDINARY | MULTI),
    ("several statements in the request only", ORDINARY | MULTI, ORDINARY),
    ("tracking in the response only", ORDINARY, ORDINARY | TRACK),
    ("tracking in the request only", ORDINARY | TRACK, ORDINARY),
]:
    print("%s: %s" % (name, heard(first, second)))
