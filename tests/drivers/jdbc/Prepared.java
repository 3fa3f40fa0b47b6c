import java.io.ByteArrayInputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.Arrays;
import java.util.Random;

/** Statements that the server prepared: types, reuse, cursors, batches, bulk, long data. */
public final class Prepared {
    private static final String SERVER = "useServerPrepStmts=true";

    public void typesInBinary(Case c) throws Exception {
        c.skipUnless(c.mysql || !c.mysqlServer, "MySQL calls the packet of MariaDB's connector malformed");
        Connection connection = c.connect(SERVER);
        c.table(connection, "ptypes", Statements.TYPES);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO ptypes (t, u, b, bu, d, f, g, da, dt, ti, y, c, v, vb, e, j) "
                + "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")) {
            for (int i = 0; i < 4; i++) {
                boolean empty = i == 2;
                insert.setObject(1, empty ? null : (byte) -i);
                insert.setObject(2, empty ? null : 200 + i);
                insert.setObject(3, empty ? null : Long.MIN_VALUE + i);
                insert.setObject(4, empty ? null : new BigDecimal("18446744073709551615"));
                insert.setObject(5, empty ? null : new BigDecimal("123456789012345678901234567890.0123456789"));
                insert.setObject(6, empty ? null : 1.5f * i);
                insert.setObject(7, empty ? null : -1e300 * i);
                insert.setObject(8, empty ? null : java.time.LocalDate.of(2024, 2, 29));
                insert.setObject(9, empty ? null : java.time.LocalDateTime.of(2024, 2, 29, 23, 59, 59, i * 1000));
                insert.setObject(10, empty ? null : java.time.LocalTime.of(11, 22, 33));
                insert.setObject(11, empty ? null : 1999 + i);
                insert.setString(12, empty ? null : "ä" + i);
                insert.setString(13, empty ? null : "😀".repeat(i));
                insert.setBytes(14, empty ? null : new byte[] {0, (byte) i, -1});
                insert.setString(15, empty ? null : "x");
                insert.setString(16, empty ? null : "{\"k\": " + i + "}");
                c.same(1, insert.executeUpdate());
            }
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT * FROM ptypes WHERE id >= ? ORDER BY id")) {
            for (int i = 1; i < 4; i++) {
                select.setInt(1, i);
                c.rows(select.executeQuery());
            }
        }
    }

    public void oneStatementOtherTypes(Case c) throws Exception {
        // What MySQL makes of a parameter that stands alone is in typesThatStick.
        otherTypes(c, (c.mysqlServer ? "SELECT CONCAT(?, '')" : "SELECT ?, CONCAT(?, '')") + ", COALESCE(?, 'none')", 1, "text", null, 2.5, Long.MAX_VALUE,
                new BigDecimal("1.10"), null, new byte[] {65}, Timestamp.valueOf("2024-01-02 03:04:05"), 7, 7, "7");
    }

    public void typesThatStick(Case c) throws Exception {
        c.skipUnless(c.mysqlServer, "MariaDB looks at the types of each execution alone");
        otherTypes(c, "SELECT ?", 1, "2", 2.5, 3);
    }

    private static void otherTypes(Case c, String sql, Object... values) throws Exception {
        Connection connection = c.connect(SERVER);
        try (PreparedStatement select = connection.prepareStatement(sql)) {
            for (Object value : values) {
                for (int i = 1; i <= select.getParameterMetaData().getParameterCount(); i++) {
                    select.setObject(i, value);
                }
                c.rows(select.executeQuery());
            }
        }
    }

    public void manyStatementsAtOnce(Case c) throws Exception {
        for (String cache : new String[] {"cachePrepStmts=false", "cachePrepStmts=true&prepStmtCacheSize=10"}) {
            Connection connection = c.connect(SERVER, cache);
            PreparedStatement[] statements = new PreparedStatement[60];
            for (int i = 0; i < statements.length; i++) {
                statements[i] = connection.prepareStatement("SELECT ? + " + i);
            }
            Random random = new Random(5);
            for (int i = 0; i < 200; i++) {
                int which = random.nextInt(statements.length);
                if (random.nextInt(5) == 0) {
                    statements[which].close();
                    statements[which] = connection.prepareStatement("SELECT ? + " + which);
                }
                statements[which].setInt(1, i);
                try (ResultSet rows = statements[which].executeQuery()) {
                    rows.next();
                    c.same(which + i, rows.getInt(1));
                }
            }
            c.say(c.one(connection, "SELECT 'end'"));
        }
    }

    public void cursors(Case c) throws Exception {
        c.skipUnless(c.mysql, "MariaDB's connector has no cursors");
        Connection connection = c.connect(SERVER, "useCursorFetch=true");
        c.numbers(connection, "cursor_", 200);
        try (PreparedStatement one = connection.prepareStatement("SELECT id, v FROM cursor_ WHERE id < ? ORDER BY id");
                PreparedStatement other = connection.prepareStatement("SELECT COUNT(*) FROM cursor_ WHERE id = ?")) {
            one.setFetchSize(7);
            for (int round = 0; round < 3; round++) {
                one.setInt(1, 40 + round);
                try (ResultSet rows = one.executeQuery()) {
                    int sum = 0;
                    while (rows.next()) {
                        sum += rows.getInt(1);
                        // Another statement of the session between two fetches.
                        other.setInt(1, rows.getInt(1));
                        try (ResultSet count = other.executeQuery()) {
                            count.next();
                            sum += count.getInt(1) * 1000;
                        }
                    }
                    c.say(sum);
                }
            }
            try (ResultSet rows = one.executeQuery()) {
                rows.next();
                c.say(rows.getInt(1));
            }
            c.say(c.one(connection, "SELECT 'abandoned'"));
        }
        try (Statement text = connection.createStatement()) {
            text.setFetchSize(3);
            c.rows(text.executeQuery("SELECT id FROM cursor_ WHERE id < 10 ORDER BY id"));
        }
    }

    public void batches(Case c) throws Exception {
        String[] options = c.mysql ? new String[] {"rewriteBatchedStatements=true", "rewriteBatchedStatements=false", "rewriteBatchedStatements=true&useServerPrepStmts=false"}
                : new String[] {"useBulkStmts=true", "useBulkStmts=false", "rewriteBatchedStatements=true", "useBulkStmtsForInserts=true&allowMultiQueries=true"};
        for (String option : options) {
            Connection connection = option.contains("useServerPrep") ? c.connect(option) : c.connect(SERVER, option);
            c.table(connection, "pbatch", "id INT AUTO_INCREMENT PRIMARY KEY, k INT UNIQUE, v VARCHAR(100), d DOUBLE");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO pbatch (k, v, d) VALUES (?, ?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int round = 0; round < 3; round++) {
                    for (int i = 0; i < 40; i++) {
                        insert.setInt(1, round * 1000 + i);
                        insert.setString(2, i % 3 == 0 ? null : "value " + i);
                        insert.setObject(3, i % 5 == 0 ? null : i / 4.0);
                        insert.addBatch();
                    }
                    c.say(Arrays.toString(insert.executeBatch()));
                }
                for (int key : new int[] {5000, 5001, 3, 5002}) {
                    insert.setInt(1, key);
                    insert.setString(2, "x");
                    insert.setDouble(3, 0);
                    insert.addBatch();
                }
                try {
                    insert.executeBatch();
                    c.check(false, "a duplicate key fails");
                } catch (BatchUpdateException failure) {
                    c.say(Arrays.toString(failure.getUpdateCounts()) + c.told(failure));
                }
            }
            try (PreparedStatement update = connection.prepareStatement("UPDATE pbatch SET v = ? WHERE k = ?")) {
                for (int i = 0; i < 50; i++) {
                    update.setString(1, "updated");
                    update.setInt(2, i);
                    update.addBatch();
                }
                c.say(Arrays.toString(update.executeBatch()));
            }
            c.run(connection, "SELECT COUNT(*), SUM(k), SUM(d), COUNT(v), SUM(v = 'updated') FROM pbatch WHERE k < 5000");
        }
    }

    public void bigBulk(Case c) throws Exception {
        Connection connection = c.connect(SERVER, c.mysql ? "rewriteBatchedStatements=true" : "useBulkStmts=true");
        c.table(connection, "bigbulk", "id INT PRIMARY KEY, v VARCHAR(2000)");
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO bigbulk VALUES (?, ?)")) {
            for (int i = 0; i < 12000; i++) {
                insert.setInt(1, i);
                insert.setString(2, "r".repeat(i % 2000));
                insert.addBatch();
            }
            c.say(insert.executeBatch().length);
        }
        c.run(connection, "SELECT COUNT(*), SUM(LENGTH(v)), SUM(id) FROM bigbulk");
    }

    public void generatedKeys(Case c) throws Exception {
        Connection connection = c.connect(SERVER);
        c.table(connection, "pkeys", "id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT");
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO pkeys (v) VALUES (?), (?)", Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 3; i++) {
                insert.setInt(1, i);
                insert.setInt(2, i);
                insert.executeUpdate();
                c.rows(insert.getGeneratedKeys());
            }
        }
    }

    public void streams(Case c) throws Exception {
        byte[] bytes = new byte[5_000_000];
        new Random(9).nextBytes(bytes);
        for (String option : c.mysql ? new String[] {"useServerPrepStmts=true", "useServerPrepStmts=false", "useServerPrepStmts=true&emulateLocators=true"}
                : new String[] {"useServerPrepStmts=true", "useServerPrepStmts=false"}) {
            Connection connection = c.connect(option, "maxAllowedPacket=60000000");
            c.table(connection, "streams", "id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO streams VALUES (?, ?, ?)")) {
                for (int i = 0; i < 3; i++) {
                    insert.setInt(1, i);
                    insert.setBinaryStream(2, new ByteArrayInputStream(bytes, 0, bytes.length >> i * 3));
                    insert.setCharacterStream(3, new StringReader("ä😀x".repeat(40_000 >> i)));
                    c.same(1, insert.executeUpdate());
                }
                // Bytes in one piece right after pieces, and a packet of more than 16 MiB.
                insert.setInt(1, 9);
                insert.setBytes(2, new byte[18_000_000]);
                insert.setNull(3, Types.LONGVARCHAR);
                c.same(1, insert.executeUpdate());
            }
            c.run(connection, "SELECT id, LENGTH(b), SHA2(b, 224), CHAR_LENGTH(t), SHA2(t, 224) FROM streams ORDER BY id");
            try (PreparedStatement select = connection.prepareStatement("SELECT b, t FROM streams WHERE id = ?")) {
                for (int i = 0; i < 3; i++) {
                    select.setInt(1, i);
                    try (ResultSet rows = select.executeQuery()) {
                        rows.next();
                        c.say(Case.digest(option.contains("Locators") ? rows.getBinaryStream("b") : rows.getBinaryStream(1)));
                        c.say(rows.getString(2).hashCode());
                    }
                }
            }
        }
    }

    public void routines(Case c) throws Exception {
        Connection connection = c.connect(SERVER);
        c.run(connection, "DROP PROCEDURE IF EXISTS pp", "CREATE PROCEDURE pp(IN a INT, OUT b VARCHAR(20), INOUT d BIGINT) "
                + "BEGIN SELECT a, 'first' UNION SELECT 2, 'more'; SET b = CONCAT('got ', a), d = d * 2; SELECT 'second'; END");
        try (CallableStatement call = connection.prepareCall("{call pp(?, ?, ?)}")) {
            for (int i = 0; i < 4; i++) {
                call.setInt(1, i);
                call.registerOutParameter(2, Types.VARCHAR);
                call.setLong(3, 1L << 40);
                call.registerOutParameter(3, Types.BIGINT);
                c.results(call, call.execute());
                c.say(call.getString(2) + " " + call.getLong(3));
            }
        }
        try (PreparedStatement call = connection.prepareStatement("CALL pp(?, @b, @d)")) {
            call.setInt(1, 5);
            c.results(call, call.execute());
        }
    }

    public void changedTable(Case c) throws Exception {
        Connection connection = c.connect(SERVER);
        // MySQL's connector can't read rows with more columns than it was told of at first.
        c.numbers(connection, "changing", 3);
        try (PreparedStatement select = connection.prepareStatement("SELECT " + (c.mysql ? "id, v" : "*") + " FROM changing WHERE id >= ? ORDER BY id")) {
            select.setInt(1, 1);
            c.rows(select.executeQuery());
            c.run(connection, "ALTER TABLE changing ADD w INT DEFAULT 5");
            c.rows(select.executeQuery());
            c.run(connection, "DROP TABLE changing");
            c.fails(() -> select.executeQuery());
            c.numbers(connection, "changing", 2);
            c.rows(select.executeQuery());
        }
    }

    public void errors(Case c) throws Exception {
        Connection connection = c.connect(SERVER);
        c.fails(() -> connection.prepareStatement("SELEC ?").execute());
        c.fails(() -> connection.prepareStatement("SELECT * FROM nowhere WHERE id = ?").executeQuery());
        c.numbers(connection, "perrors", 3);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO perrors VALUES (?, ?)")) {
            for (int id : new int[] {1, 10, 2, 11}) {
                insert.setInt(1, id);
                insert.setString(2, "v");
                if (id < 10) {
                    c.fails(insert::executeUpdate);
                } else {
                    c.same(1, insert.executeUpdate());
                }
            }
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT id, v, ? FROM perrors")) {
            ParameterMetaData parameters = select.getParameterMetaData();
            c.say(parameters.getParameterCount() + " " + select.getMetaData().getColumnCount());
        }
        c.run(connection, "SELECT COUNT(*) FROM perrors");
    }

    public void acrossSchemas(Case c) throws Exception {
        Connection connection = c.connect(SERVER);
        c.numbers(connection, "here", 4);
        try (PreparedStatement select = connection.prepareStatement("SELECT COUNT(*), DATABASE() FROM here WHERE id > ?")) {
            select.setInt(1, 1);
            c.rows(select.executeQuery());
            // Prepared where the table was; it has to go on finding it.
            connection.setCatalog("jdbcother");
            for (int i = 0; i < 3; i++) {
                c.rows(select.executeQuery());
            }
            c.fails(() -> c.run(connection, "SELECT COUNT(*) FROM here"));
            c.rows(select.executeQuery());
        }
    }
}
