import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.Statement;
import java.sql.Types;
import java.util.Arrays;

/** Statements as text: results of every shape, batches, routines, files. */
public final class Statements {
    static final String TYPES = "id INT AUTO_INCREMENT PRIMARY KEY, t TINYINT, u TINYINT UNSIGNED, s SMALLINT, m MEDIUMINT, b BIGINT, "
            + "bu BIGINT UNSIGNED, d DECIMAL(65,10), f FLOAT, g DOUBLE, bi BIT(13), da DATE, dt DATETIME(6), ts TIMESTAMP(3) NULL, ti TIME(2), "
            + "y YEAR, c CHAR(5), v VARCHAR(50), bn BINARY(4), vb VARBINARY(9), bl BLOB, tx TEXT, e ENUM('x','y'), st SET('p','q','r'), j JSON";

    public void typesAsText(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "types", TYPES);
        c.run(connection, "INSERT INTO types VALUES (1, -128, 255, -32768, -8388608, -9223372036854775808, 18446744073709551615, "
                + "'1234567890123456789012345678901234567890.0123456789', 1.5, -2.25e100, b'1010101010101', '1000-01-01', '2024-02-29 23:59:59.999999', "
                + "'2024-02-29 23:59:59.999', '-12:00:00.5', 2155, 'ab', 'äöü€😀', 'ab', x'00ff10', x'001122', 'text', 'y', 'p,r', '{\"a\": [1, null]}')",
                "INSERT INTO types (id) VALUES (2)", "SELECT * FROM types ORDER BY id");
    }

    public void emptyAndWideResults(Case c) throws Exception {
        Connection connection = c.connect();
        StringBuilder wide = new StringBuilder("SELECT 0");
        for (int i = 1; i < 600; i++) {
            wide.append(",").append(i);
        }
        c.run(connection, "SELECT 1 FROM DUAL WHERE 1 = 0", wide.toString(), "SELECT ''", "SELECT NULL", "DO 1", "SELECT REPEAT('x', 300)");
    }

    public void streamedResult(Case c) throws Exception {
        Connection connection = c.connect();
        c.numbers(connection, "many", 5000);
        try (Statement statement = connection.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
            statement.setFetchSize(c.mysql ? Integer.MIN_VALUE : 10);
            try (ResultSet rows = statement.executeQuery("SELECT a.id, b.v FROM many a JOIN many b ON b.id < 20")) {
                long sum = 0;
                while (rows.next()) {
                    sum += rows.getInt(1) + rows.getString(2).length();
                }
                c.say(sum);
            }
            try (ResultSet rows = statement.executeQuery("SELECT id, v FROM many ORDER BY id")) {
                rows.next();
                c.say(rows.getString(1));
            }
            c.say(c.one(connection, "SELECT COUNT(*) FROM many"));
        }
    }

    public void severalResults(Case c) throws Exception {
        Connection connection = c.connect("allowMultiQueries=true");
        c.table(connection, "several", "id INT PRIMARY KEY");
        c.run(connection, "SELECT 1; INSERT INTO several VALUES (1), (2); SELECT id FROM several; DELETE FROM several; SELECT 'end'");
        c.fails(() -> c.run(connection, "SELECT 1; INSERT INTO several VALUES (1), (1); SELECT 'never'"));
        c.run(connection, "SELECT COUNT(*) FROM several");
        c.fails(() -> c.run(c.connect(), "SELECT 1; SELECT 2"));
    }

    public void batches(Case c) throws Exception {
        for (String option : new String[] {"rewriteBatchedStatements=false", "rewriteBatchedStatements=true", "allowMultiQueries=true"}) {
            Connection connection = c.connect(option);
            c.table(connection, "batch", "id INT PRIMARY KEY, v INT");
            try (Statement statement = connection.createStatement()) {
                for (int i = 0; i < 30; i++) {
                    statement.addBatch("INSERT INTO batch VALUES (" + i + ", 0)");
                }
                statement.addBatch("UPDATE batch SET v = 1 WHERE id < 7");
                c.say(Arrays.toString(statement.executeBatch()));
                statement.addBatch("INSERT INTO batch VALUES (100, 0)");
                statement.addBatch("INSERT INTO batch VALUES (1, 0)");
                statement.addBatch("INSERT INTO batch VALUES (101, 0)");
                try {
                    statement.executeBatch();
                    c.check(false, "a duplicate key fails");
                } catch (BatchUpdateException failure) {
                    c.say(Arrays.toString(failure.getUpdateCounts()) + c.told(failure));
                }
            }
            c.run(connection, "SELECT COUNT(*), SUM(v), SUM(id) FROM batch");
        }
    }

    public void generatedKeys(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "keys_", "id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT");
        try (Statement statement = connection.createStatement()) {
            for (int i = 0; i < 3; i++) {
                statement.executeUpdate("INSERT INTO keys_ (v) VALUES (1), (2)", Statement.RETURN_GENERATED_KEYS);
                c.rows(statement.getGeneratedKeys());
                c.say(c.one(connection, "SELECT LAST_INSERT_ID()"));
            }
        }
    }

    public void routines(Case c) throws Exception {
        Connection connection = c.connect();
        c.run(connection, "DROP PROCEDURE IF EXISTS p", "DROP FUNCTION IF EXISTS f",
                "CREATE PROCEDURE p(IN a INT, OUT b VARCHAR(20), INOUT c DECIMAL(10,2)) BEGIN SELECT a, 'first'; SET b = CONCAT('got ', a), c = c * 2; "
                        + "SELECT 'second'; END",
                "CREATE FUNCTION f(a INT) RETURNS INT DETERMINISTIC RETURN a + 1");
        for (int i = 0; i < 3; i++) {
            try (CallableStatement call = connection.prepareCall("{call p(?, ?, ?)}")) {
                call.setInt(1, i);
                call.registerOutParameter(2, Types.VARCHAR);
                call.setBigDecimal(3, new java.math.BigDecimal("1.25"));
                call.registerOutParameter(3, Types.DECIMAL);
                c.results(call, call.execute());
                c.say(call.getString(2) + " " + call.getBigDecimal(3));
            }
            try (CallableStatement call = connection.prepareCall("{? = call f(?)}")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setInt(2, i);
                call.execute();
                c.same(i + 1, call.getInt(1));
            }
        }
        c.run(connection, "CALL p(1, @b, @c)", "SELECT @b");
    }

    public void localFiles(Case c) throws Exception {
        Connection connection = c.connect(c.mysql ? "allowLoadLocalInfile=true" : "allowLocalInfile=true");
        Path file = Files.createTempFile("changeover", ".csv");
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 60000; i++) {
            text.append(i).append(",row number ").append(i).append('\n');
        }
        Files.writeString(file, text);
        String load = "LOAD DATA LOCAL INFILE '" + file + "' INTO TABLE loaded FIELDS TERMINATED BY ','";
        try {
            c.table(connection, "loaded", "id INT PRIMARY KEY, v VARCHAR(50)");
            c.run(connection, load, "SELECT COUNT(*), SUM(id), MAX(v) FROM loaded", "DELETE FROM loaded WHERE id > 9", load.replace("INTO", "IGNORE INTO"),
                    "SELECT COUNT(*) FROM loaded");
            c.fails(() -> c.run(connection, load.replace(file.toString(), "/nowhere/at-all")));
            c.run(connection, "SELECT COUNT(*) FROM loaded");
            c.fails(() -> c.run(c.connect(c.mysql ? "allowLoadLocalInfile=false" : "allowLocalInfile=false"), load));
        } finally {
            Files.delete(file);
        }
    }

    public void bigPackets(Case c) throws Exception {
        Connection connection = c.connect("maxAllowedPacket=60000000");
        c.table(connection, "big", "id INT PRIMARY KEY, v LONGTEXT");
        for (int size : new int[] {0xffffff - 40, 0xffffff, 20_000_000}) {
            try (Statement statement = connection.createStatement()) {
                statement.execute("REPLACE INTO big VALUES (1, '" + "z".repeat(size - 32) + "')");
                c.say(c.one(connection, "SELECT CONCAT(LENGTH(v), SHA2(v, 224)) FROM big"));
                try (ResultSet rows = statement.executeQuery("SELECT v FROM big")) {
                    rows.next();
                    c.say(Case.digest(new ByteArrayInputStream(rows.getString(1).getBytes(StandardCharsets.US_ASCII))));
                }
            }
        }
    }

    public void bigResultPackets(Case c) throws Exception {
        Connection connection = c.connect("maxAllowedPacket=60000000");
        // The row's length with its own prefix is 0xffffff at 0xffffff - 4: the packet with an empty trailer.
        for (int size : new int[] {0xffffff - 5, 0xffffff - 4, 0xffffff - 3, 0x1fffffe - 9, 0x1fffffe - 4}) {
            try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("SELECT REPEAT('q', " + size + ")")) {
                rows.next();
                c.say(rows.getString(1).length());
            }
            c.say(c.one(connection, "SELECT 'next'"));
        }
    }

    public void errors(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "errors_", "id INT PRIMARY KEY, v VARCHAR(3) NOT NULL");
        for (String sql : new String[] {"SELEC 1", "SELECT * FROM nowhere", "INSERT INTO errors_ VALUES (1, NULL)", "INSERT INTO errors_ VALUES (1, 'too long')",
            "SELECT f_unknown()", "USE nowhere", "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'own', MYSQL_ERRNO = 4711", "SELECT (SELECT 1 UNION SELECT 2)", "KILL 4294967290"}) {
            c.fails(() -> c.run(connection, sql));
        }
        c.run(connection, "SELECT DATABASE()");
    }

    public void updatableRows(Case c) throws Exception {
        Connection connection = c.connect();
        c.numbers(connection, "updatable", 5);
        try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
                ResultSet rows = statement.executeQuery("SELECT id, v FROM updatable ORDER BY id")) {
            rows.absolute(2);
            rows.updateString(2, "changed");
            rows.updateRow();
            rows.moveToInsertRow();
            rows.updateInt(1, 77);
            rows.updateString(2, "new");
            rows.insertRow();
            rows.absolute(4);
            rows.deleteRow();
        }
        c.run(connection, "SELECT * FROM updatable ORDER BY id");
    }

    public void metadata(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "meta", TYPES);
        DatabaseMetaData data = connection.getMetaData();
        c.say(data.getDatabaseProductVersion() + data.getURL().replaceAll(":\\d+", ""));
        c.rows(data.getColumns("jdbctest", null, "meta", "%"));
        c.rows(data.getPrimaryKeys("jdbctest", null, "meta"));
        c.rows(data.getTables("jdbctest", null, "met_", null));
        c.rows(data.getIndexInfo("jdbctest", null, "meta", true, false));
    }

    public void maxRowsAndTimeouts(Case c) throws Exception {
        Connection connection = c.connect();
        c.numbers(connection, "limits", 50);
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(3);
            c.rows(statement.executeQuery("SELECT id FROM limits ORDER BY id"));
            c.say(c.one(connection, "SELECT COUNT(*) FROM limits"));
            c.rows(statement.executeQuery("SELECT id FROM limits ORDER BY id DESC"));
            statement.setMaxRows(0);
            statement.setQueryTimeout(30);
            c.rows(statement.executeQuery("SELECT COUNT(*) FROM limits"));
        }
    }
}
