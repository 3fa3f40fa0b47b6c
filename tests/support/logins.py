"""Logins packet by packet: logins.py PORT CASE. Says what was heard, a line each."""
import socket
import struct
import sys

if len(sys.argv) > 3 and sys.argv[3] == "poor":
    # As on a machine where PyMySQL's optional library was never installed.
    sys.modules["cryptography"] = None
import pymysql
from pymysql import _auth

port, case = int(sys.argv[1]), sys.argv[2]
USER, PASSWORD = b"app", b"app-Secret_2"


class Login:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        greeting = self.read()
        rest = greeting[greeting.index(b"\0", 1) + 5:]
        self.scramble = rest[:8] + rest[27:39]

    def read(self):
        head = self.exactly(4)
        self.sequence = head[3]
        return self.exactly(int.from_bytes(head[:3], "little"))

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def write(self, payload):
        number = (self.sequence + 1) % 256
        self.socket.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)

    def respond(self, token, user=USER, plugin=b"caching_sha2_password"):
        flags = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x80000
        self.write(struct.pack("<IIB23x", flags, 1 << 24, 45) + user + b"\0" + bytes([len(token)]) + token
                   + plugin + b"\0")

    def hear(self):
        """One packet in a word: ok, error N, fast, full, key, switch, closed."""
        try:
            packet = self.read()
        except (EOFError, ConnectionError):
            return "closed"
        if packet[0] == 0:
            return "ok"
        if packet[0] == 0xFF:
            return "error %d" % struct.unpack("<H", packet[1:3])
        if packet[0] == 0xFE:
            return "switch"
        return {3: "fast", 4: "full"}.get(packet[1], "key") if packet[0] == 1 else "unknown"


def said(*words):
    print(" ".join(words))


def token(login, password=PASSWORD):
    return _auth.scramble_caching_sha2(password, login.scramble)


if case == "connect":
    try:
        user, password = sys.argv[4], sys.argv[5]
        pymysql.connect(host="127.0.0.1", port=port, user=user, password=password).close()
        said("in")
    except pymysql.err.OperationalError as error:
        said("error", str(error.args[0]))
elif case == "token":
    login = Login()
    login.respond(token(login))
    first = login.hear()
    said(first, login.hear() if first == "fast" else "")
elif case == "hostile":
    known = Login()
    known.respond(token(known))
    assert [known.hear(), known.hear()] == ["fast", "ok"]
    for name, answer in [("another's token", token(known)), ("short", b"x" * 31), ("long", b"x" * 33),
                         ("wrong", b"\0" * 32)]:
        login = Login()
        login.respond(answer)
        said(name + ":", login.hear())
    login = Login()
    login.respond(b"")
    said("nothing:", login.hear())
    login = Login()
    login.respond(token(login), user=b"u" * 600)
    said("long name:", login.hear())
    login = Login()
    login.respond(b"x" * 32)
    login.hear()
    login.write(b"\x01\x03")
    said("says it is done:", login.hear())
    login = Login()
    login.respond(b"x" * 32)
    login.hear()
    login.write(b"\x02")
    key = login.hear()
    login.write(b"\x02")
    said("asks for the key twice:", key, login.hear())
    login = Login()
    login.respond(token(login), plugin=b"mysql_clear_password")
    first = login.hear()
    login.write(b"\xfe" + b"caching_sha2_password\0" + b"x" * 20 + b"\0")
    said("switches itself:", first, login.hear())
