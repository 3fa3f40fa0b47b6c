"""PyMySQL against the admin port and the proxy: clients.py ADMIN_PORT PROXY_PORT STATEMENT..."""
import ssl
import sys

import pymysql

admin_port, proxy_port, statements = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

trusting = ssl.create_default_context()
trusting.check_hostname = False
trusting.verify_mode = ssl.CERT_NONE

for tls in (None, trusting):
    admin = pymysql.connect(host="127.0.0.1", port=admin_port, user="admin", password="admin-Secret_3", ssl=tls)
    with admin.cursor(pymysql.cursors.DictCursor) as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = cursor.fetchall()
            if statement == "SHOW MIGRATION STATUS":
                assert rows[0]["phase"] == "idle", rows
        for _ in range(2):
            try:
                cursor.execute("CUTOVER")
                raise SystemExit("a cutover was accepted while idle")
            except pymysql.err.MySQLError as error:
                assert "idle" in str(error), error
        admin.ping()
    admin.close()

    try:
        pymysql.connect(host="127.0.0.1", port=admin_port, user="admin", password="wrong", ssl=tls)
        raise SystemExit("a wrong password was accepted")
    except pymysql.err.OperationalError as error:
        assert error.args[0] == 1045, error

    app = pymysql.connect(host="127.0.0.1", port=proxy_port, user="app", password="app-Secret_2", database="shop",
                          charset="utf8mb4", ssl=tls)
    with app.cursor() as cursor:
        cursor.execute("SET @a = %s", ("ünï🎬",))
        cursor.execute("SELECT @a, DATABASE()")
        assert cursor.fetchall() == (("ünï🎬", "shop"),)
        cursor.executemany("INSERT INTO names VALUES (%s, %s, %s)",
                           [("py%d%s" % (n, "t" if tls else ""), b"\x00\xff", n) for n in range(50)])
        app.commit()
        cursor.execute("SELECT COUNT(*) FROM names WHERE name LIKE 'py%'")
        assert cursor.fetchone()[0] in (50, 100)
    with app.cursor(pymysql.cursors.SSCursor) as cursor:
        cursor.execute("SELECT * FROM bulk ORDER BY id")
        assert len(list(cursor)) == 500
    app.close()

    try:
        pymysql.connect(host="127.0.0.1", port=proxy_port, user="app", password="wrong", ssl=tls)
        raise SystemExit("a wrong password was accepted by the proxy")
    except pymysql.err.OperationalError as error:
        assert error.args[0] == 1045, error

print("all fine")
