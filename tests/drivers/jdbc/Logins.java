import java.sql.Connection;
import java.sql.DriverManager;

/** Ways to come in: passwords, TLS, compression, schemas, refusals. */
public final class Logins {
    public void passwords(Case c) throws Exception {
        for (int i = 0; i < 3; i++) {
            Connection connection = c.as("app", Case.PASSWORD);
            c.run(connection, "SELECT CURRENT_USER(), DATABASE()", "SELECT 1");
        }
        c.fails(() -> c.as("app", "wrong"));
        c.fails(() -> c.as("app", ""));
        if (c.mysql || !c.mysqlServer) {
            c.fails(() -> c.as("nobody", "x"));
        } else {
            // MySQL makes up a plugin for a user that it doesn't have, another on each server; this connector doesn't know them all.
            try {
                c.as("nobody", "x");
                c.check(false, "nobody isn't let in");
            } catch (java.sql.SQLException refused) {
                c.say("not let in");
            }
        }
        c.fails(() -> c.keep(DriverManager.getConnection(c.url("nowhere"), "root", "")));
        c.fails(() -> c.keep(DriverManager.getConnection(c.url("mysql"), "app", Case.PASSWORD)));
        c.run(c.as("app", Case.PASSWORD), "SELECT 'still let in'");
    }

    public void tls(Case c) throws Exception {
        for (String mode : c.mysql ? new String[] {"sslMode=REQUIRED", "sslMode=PREFERRED", "sslMode=REQUIRED&tlsVersions=TLSv1.3", "sslMode=REQUIRED&tlsVersions=TLSv1.2"}
                : new String[] {"sslMode=trust", "sslMode=trust&enabledSslProtocolSuites=TLSv1.3", "sslMode=trust&enabledSslProtocolSuites=TLSv1.2"}) {
            Connection connection = c.as("app", Case.PASSWORD, mode);
            c.run(connection, "SELECT CURRENT_USER()", "SELECT REPEAT('x', 100000) = ''");
            c.numbers(connection, "tls_", 3000);
            c.say(c.one(connection, "SELECT SUM(LENGTH(v)) FROM tls_"));
        }
        c.fails(() -> c.as("app", "wrong", c.mysql ? "sslMode=REQUIRED" : "sslMode=trust"));
        c.fails(() -> c.as("app", Case.PASSWORD, c.mysql ? "sslMode=VERIFY_IDENTITY" : "sslMode=verify-full"));
    }

    public void compression(Case c) throws Exception {
        for (String tls : new String[] {c.mysql ? "sslMode=REQUIRED" : "sslMode=trust", c.mysql ? "sslMode=DISABLED" : "sslMode=disable"}) {
            Connection connection = c.as("app", Case.PASSWORD, "useCompression=true", "maxAllowedPacket=60000000", tls);
            c.numbers(connection, "compressed", 3000);
            c.say(c.one(connection, "SELECT SUM(LENGTH(v)) FROM compressed"));
            c.run(connection, "SELECT LENGTH('" + "y".repeat(18_000_000) + "') AS l", "SELECT SHA2(REPEAT('ab', 10000000), 224) AS m");
            c.say(c.one(connection, "SELECT REPEAT('ab', 9000000)").length());
        }
    }

    public void noSchema(Case c) throws Exception {
        Connection connection = c.keep(DriverManager.getConnection(c.url(""), "root", ""));
        c.run(connection, "SELECT DATABASE()");
        c.fails(() -> c.run(connection, "SELECT * FROM nothing_chosen"));
        c.run(connection, "USE jdbcother", "SELECT DATABASE()");
    }

    public void manyLogins(Case c) throws Exception {
        for (int i = 0; i < 40; i++) {
            try (Connection connection = DriverManager.getConnection(c.url("jdbctest"), i % 2 == 0 ? "root" : "app", i % 2 == 0 ? "" : Case.PASSWORD)) {
                c.same("1", c.one(connection, "SELECT 1"));
            }
        }
    }

    public void locked(Case c) throws Exception {
        Connection admin = c.connect();
        c.run(admin, "DROP USER IF EXISTS locked_@'%'", "CREATE USER locked_@'%' IDENTIFIED BY 'Secret_1' ACCOUNT LOCK",
                "GRANT ALL ON jdbctest.* TO locked_@'%'");
        c.fails(() -> c.as("locked_", "Secret_1"));
    }
}
