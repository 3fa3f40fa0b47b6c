"""Sessions with state through TLS: sessions.py PORT COUNT. Says "open", waits for a line, then holds each to its state."""
import ssl
import sys

import pymysql

port, count = int(sys.argv[1]), int(sys.argv[2])
trusting = ssl.create_default_context()
trusting.check_hostname = False
trusting.verify_mode = ssl.CERT_NONE


def ask(session, sql):
    with session.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


sessions = []
for number in range(count):
    session = pymysql.connect(host="127.0.0.1", port=port, user="app", password="app-Secret_2", charset="utf8mb4",
                              ssl=trusting, read_timeout=60, autocommit=None)
    ask(session, "SET @mine = %d, SESSION group_concat_max_len = %d" % (number, 2000 + number))
    ask(session, "USE shop")
    ask(session, "PREPARE again FROM 'SELECT @mine + ?'")
    sessions.append(session)
print("open", flush=True)
sys.stdin.readline()
for number, session in enumerate(sessions):
    found = ask(session, "SELECT @mine, DATABASE(), @@group_concat_max_len")
    assert [str(value) for value in found[0]] == [str(number), "shop", str(2000 + number)], found
    assert int(ask(session, "EXECUTE again USING @mine")[0][0]) == 2 * number
print("all fine", flush=True)
