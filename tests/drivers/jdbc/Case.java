import java.io.InputStream;
import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/** What one test has: connections, and a transcript of what it saw, which has to be the same by every way. */
final class Case {
    /** Thrown by a test that has nothing to say about this driver or server. */
    static final class Skip extends RuntimeException {
        Skip(String reason) {
            super(reason);
        }
    }

    /** Something that may throw. */
    interface Step {
        void run() throws Exception;
    }

    static final String PASSWORD = "App-1_pass";
    /** Whether the driver is MySQL's, otherwise it is MariaDB's. */
    final boolean mysql;
    /** Whether the server is MySQL, otherwise it is MariaDB. */
    final boolean mysqlServer;
    final int port;
    final StringBuilder seen = new StringBuilder();
    private final List<AutoCloseable> open = new ArrayList<>();

    Case(boolean mysql, boolean mysqlServer, int port) {
        this.mysql = mysql;
        this.mysqlServer = mysqlServer;
        this.port = port;
    }

    /** A connection of root's with these options of the URL. */
    Connection connect(String... options) throws SQLException {
        return as("root", "", options);
    }

    Connection as(String user, String password, String... options) throws SQLException {
        Connection connection = DriverManager.getConnection(url("jdbctest", options), user, password);
        keep(connection);
        return connection;
    }

    String url(String schema, String... options) {
        String tls = String.join("&", options).contains("sslMode") ? "" : mysql ? "&sslMode=DISABLED" : "&sslMode=disable";
        String keys = mysql ? "allowPublicKeyRetrieval=true" : "allowPublicKeyRetrieval=true";
        return "jdbc:" + (mysql ? "mysql" : "mariadb") + "://127.0.0.1:" + port + "/" + schema + "?" + keys + tls
                + (options.length == 0 ? "" : "&" + String.join("&", options));
    }

    <T extends AutoCloseable> T keep(T closeable) {
        open.add(closeable);
        return closeable;
    }

    void close() {
        for (AutoCloseable each : open) {
            try {
                each.close();
            } catch (Exception ignored) {
                // The test was about something else.
            }
        }
    }

    void say(Object what) {
        seen.append(what).append(" | ");
    }

    void check(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException("not so: " + what);
        }
    }

    void same(Object expected, Object found) {
        check(Objects.equals(expected, found), "expected " + expected + ", found " + found);
    }

    /** Executes, and writes down every result of it. */
    void run(Connection connection, String... statements) throws Exception {
        try (Statement statement = connection.createStatement()) {
            for (String sql : statements) {
                boolean rows = statement.execute(sql);
                results(statement, rows);
            }
        }
    }

    void results(Statement statement, boolean rows) throws Exception {
        while (true) {
            if (rows) {
                rows(statement.getResultSet());
            } else if (statement.getUpdateCount() >= 0) {
                say(statement.getUpdateCount() + " changed");
            } else {
                return;
            }
            rows = statement.getMoreResults();
        }
    }

    /** Writes down the columns and rows. */
    void rows(ResultSet rows) throws Exception {
        ResultSetMetaData columns = rows.getMetaData();
        for (int i = 1; i <= columns.getColumnCount(); i++) {
            seen.append(columns.getColumnLabel(i)).append(':').append(columns.getColumnTypeName(i)).append(' ');
        }
        while (rows.next()) {
            seen.append('(');
            for (int i = 1; i <= columns.getColumnCount(); i++) {
                seen.append(i > 1 ? ", " : "").append(value(rows.getObject(i)));
            }
            seen.append(')');
        }
        seen.append(" | ");
    }

    private static String value(Object value) throws Exception {
        return value instanceof byte[] bytes ? "x" + java.util.HexFormat.of().formatHex(bytes)
                : value instanceof java.sql.Blob blob ? "blob " + digest(blob.getBinaryStream()) : String.valueOf(value);
    }

    /** The first value of the first row. */
    String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "a row");
            return rows.getString(1);
        }
    }

    /** Writes down how it fails; a step that doesn't is a failure of the test. */
    void fails(Step step) throws Exception {
        Exception found = null;
        try {
            step.run();
        } catch (Exception failure) {
            found = failure;
        }
        check(found != null, "it fails");
        say(told(found));
    }

    String told(Throwable failure) {
        String code = failure instanceof SQLException sql ? sql.getErrorCode() + " " + sql.getSQLState() + " " : "";
        // Ids of connections differ from run to run, and so do ports.
        String text = String.valueOf(failure.getMessage()).split("\n")[0].replaceAll("conn=\\d+", "conn=N")
                .replaceAll("port[=: ]+\\d+|:" + port + "\\b|\\b\\d+ millisec", "N");
        return failure.getClass().getSimpleName() + " " + code + text;
    }

    void warnings(SQLWarning warning) {
        for (; warning != null; warning = warning.getNextWarning()) {
            say("warning " + warning.getErrorCode() + " " + warning.getMessage());
        }
    }

    static String digest(InputStream stream) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] part = new byte[65536];
        long length = 0;
        for (int n = stream.read(part); n >= 0; n = stream.read(part)) {
            digest.update(part, 0, n);
            length += n;
        }
        return length + ":" + java.util.HexFormat.of().formatHex(digest.digest(), 0, 8);
    }

    /** A table of that name, made anew. */
    void table(Connection connection, String name, String columns) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("DROP TABLE IF EXISTS " + name);
            statement.execute("CREATE TABLE " + name + " (" + columns + ")");
        }
    }

    /** `count` rows of (id, v) in a table of that name. */
    void numbers(Connection connection, String name, int count) throws Exception {
        table(connection, name, "id INT PRIMARY KEY, v VARCHAR(100)");
        StringBuilder sql = new StringBuilder("INSERT INTO " + name + " VALUES ");
        for (int i = 0; i < count; i++) {
            sql.append(i == 0 ? "" : ",").append("(").append(i).append(",REPEAT('").append((char) ('a' + i % 26)).append("',").append(i % 90).append("))");
        }
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql.toString());
        }
    }

    void skipUnless(boolean applies, String reason) {
        if (!applies) {
            throw new Skip(reason);
        }
    }
}
