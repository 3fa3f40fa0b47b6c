"""Clients that log in, ask one question and then say nothing: what a connection costs in memory.

A protocol client of our own, since ten thousand of any driver's would need more memory than the proxy under test.
"""

import asyncio
import hashlib
import ssl
import struct

from process import Trouble
from servers import PASSWORD, SCHEMA, USER

# PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH, CONNECT_WITH_DB, LONG_PASSWORD, TRANSACTIONS
CAPABILITIES = 0x0000_0200 | 0x0000_8000 | 0x0008_0000 | 0x0000_0008 | 0x0000_0001 | 0x0000_2000
SSL = 0x0000_0800
AT_ONCE = 64


class IdleClients:
    """Connections that are held until closed."""

    def __init__(self, port, tls=False):
        self.port = port
        self.tls = any_certificate() if tls else None
        self.open = []

    async def connect(self, count):
        """Opens `count` connections, a few at a time so that no listen queue overflows."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one():
            async with gate:
                self.open.append(await asyncio.wait_for(log_in(self.port, self.tls), 60))

        tasks = [asyncio.ensure_future(one()) for _ in range(count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def alive(self):
        """Asks some of them once more, so that what was measured was still connected."""
        for reader, writer in self.open[:: max(1, len(self.open) // 20)]:
            await asyncio.wait_for(query(reader, writer, b"DO 1"), 20)

    async def close(self):
        for _, writer in self.open:
            writer.close()
        self.open.clear()


def any_certificate():
    """TLS without asking who it is: the proxy's certificate is its own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def log_in(port, tls=None):
    """One connection with a statement behind it."""
    # A small buffer: the clients' own memory shares the machine with the proxy's.
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    try:
        greeting, _ = await packet(reader)
        plugin, scramble = read_greeting(greeting)
        head = struct.pack("<IIB23x", CAPABILITIES | (SSL if tls else 0), 1 << 24, 45)
        if tls:
            send(writer, 1, head)
            await writer.start_tls(tls)
        proof = prove(plugin, scramble)
        who = USER.encode() + b"\0" + bytes([len(proof)]) + proof + SCHEMA.encode() + b"\0" + plugin + b"\0"
        send(writer, 2 if tls else 1, head + who)
        await finish_login(reader, writer, scramble, tls)
        await query(reader, writer, b"DO 1")
        return reader, writer
    except BaseException:
        writer.close()
        raise


async def finish_login(reader, writer, scramble, tls):
    """Follows the server from its first answer to OK."""
    while True:
        answer, sequence = await packet(reader)
        if answer[0] == 0:
            return
        if answer[0] == 0xFE:
            plugin, rest = answer[1:].split(b"\0", 1)
            scramble = rest[:20]
            send(writer, sequence + 1, prove(plugin, scramble))
        elif answer[:2] == b"\x01\x04" and tls:
            send(writer, sequence + 1, PASSWORD.encode() + b"\0")
        elif answer[:2] == b"\x01\x04":
            # caching_sha2 wants the password itself, and there is no TLS: ask for the RSA key.
            send(writer, sequence + 1, b"\x02")
            key, sequence = await packet(reader)
            send(writer, sequence + 1, rsa_encrypt(key[1:].decode(), scramble))
        elif answer[:2] != b"\x01\x03":
            raise Trouble(f"login refused: {error_text(answer)}")


async def query(reader, writer, sql):
    """A statement that answers OK."""
    send(writer, 0, b"\x03" + sql)
    answer, _ = await packet(reader)
    if answer[0] != 0:
        raise Trouble(f"{sql.decode()} failed: {error_text(answer)}")


async def packet(reader):
    header = await reader.readexactly(4)
    return await reader.readexactly(int.from_bytes(header[:3], "little")), header[3]


def send(writer, sequence, payload):
    writer.write(len(payload).to_bytes(3, "little") + bytes([sequence & 0xFF]) + payload)


def read_greeting(greeting):
    """The plugin and scramble of the server's first packet."""
    if greeting[0] == 0xFF:
        raise Trouble(f"refused: {error_text(greeting)}")
    after_version = greeting.index(b"\0", 1) + 1
    rest = greeting[after_version + 4 :]
    first, rest = rest[:8], rest[9:]
    length = max(13, rest[7] - 8)
    second, plugin = rest[18 : 18 + length], rest[18 + length :]
    return plugin.split(b"\0", 1)[0], (first + second)[:20]


def prove(plugin, scramble):
    """The answer that shows the password is known."""
    password = PASSWORD.encode()
    if plugin == b"mysql_native_password":
        inner = hashlib.sha1(password).digest()
        mask = hashlib.sha1(scramble + hashlib.sha1(inner).digest()).digest()
    elif plugin == b"caching_sha2_password":
        inner = hashlib.sha256(password).digest()
        mask = hashlib.sha256(hashlib.sha256(inner).digest() + scramble).digest()
    else:
        raise Trouble(f"this client doesn't know {plugin.decode(errors='replace')}")
    return bytes(a ^ b for a, b in zip(inner, mask))


def rsa_encrypt(pem, scramble):
    """The password under the server's public key: RSA-OAEP with SHA-1, as the protocol has it."""
    import base64
    import os

    modulus, exponent = rsa_numbers(base64.b64decode("".join(pem.strip().splitlines()[1:-1])))
    size = (modulus.bit_length() + 7) // 8
    clear = PASSWORD.encode() + b"\0"
    clear = bytes(byte ^ scramble[index % len(scramble)] for index, byte in enumerate(clear))
    block = hashlib.sha1(b"").digest() + b"\0" * (size - len(clear) - 42) + b"\1" + clear
    seed = os.urandom(20)
    masked = bytes(a ^ b for a, b in zip(block, mgf1(seed, len(block))))
    masked_seed = bytes(a ^ b for a, b in zip(seed, mgf1(masked, 20)))
    number = int.from_bytes(b"\0" + masked_seed + masked, "big")
    return pow(number, exponent, modulus).to_bytes(size, "big")


def mgf1(seed, length):
    blocks = (hashlib.sha1(seed + count.to_bytes(4, "big")).digest() for count in range(length // 20 + 1))
    return b"".join(blocks)[:length]


def rsa_numbers(der):
    """Modulus and exponent of a SubjectPublicKeyInfo."""

    def element(data):
        length, start = data[1], 2
        if length & 0x80:
            start = 2 + (length & 0x7F)
            length = int.from_bytes(data[2:start], "big")
        return data[start : start + length], data[start + length :]

    body, _ = element(der)
    _, rest = element(body)
    bits, _ = element(rest)
    numbers, _ = element(bits[1:])
    modulus, rest = element(numbers)
    exponent, _ = element(rest)
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def error_text(answer):
    """What an error packet says."""
    text = answer[3:].decode(errors="replace") if answer[:1] == b"\xff" else repr(answer[:40])
    return text.split("#", 1)[-1][:200]


def measure_idle(peer, count, settle_s):
    """KB of the proxy for each of `count` idle connections, and its resident memory before and with them."""

    async def work():
        clients = IdleClients(peer.port)
        before = peer.resident_kb()
        try:
            await clients.connect(count)
            await asyncio.sleep(settle_s)
            with_them = peer.resident_kb()
            await clients.alive()
        finally:
            await clients.close()
        return before, with_them

    try:
        return asyncio.run(work())
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
        raise Trouble(f"{count} idle connections through {peer.name}: {type(error).__name__}: {error}") from error
