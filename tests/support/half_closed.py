"""A client that says nothing more but stays: half_closed.py PORT tcp|tls|notify SQL...

It logs in, sends the last SQL after the answers to those before, and reads nothing of its answer. At the first line on
its input it ends its half of the connection, by a FIN (tcp, tls) or by TLS's close_notify, and stays until the second."""
import socket
import ssl
import sys

import pymysql
from pymysql.constants.COMMAND import COM_QUERY

port, how, statements = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
trusting = ssl.create_default_context()
trusting.check_hostname = False
trusting.verify_mode = ssl.CERT_NONE
conn = pymysql.connect(host="127.0.0.1", port=port, user="app", password="app-Secret_2", database="shop",
                       ssl=None if how == "tcp" else trusting)
for statement in statements[:-1]:
    conn.query(statement)
if statements:
    conn._execute_command(COM_QUERY, statements[-1])
print("asked", flush=True)
sys.stdin.readline()
if how == "notify":
    conn._sock.settimeout(0.5)
    try:
        conn._sock.unwrap()
    except (OSError, ssl.SSLError):
        # It was said; what the other end had sent before that is in the way of the answer.
        pass
else:
    conn._sock.shutdown(socket.SHUT_WR)
print("half closed", flush=True)
sys.stdin.readline()
