import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import javax.sql.XAConnection;
import javax.sql.XADataSource;
import javax.transaction.xa.XAException;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;

/** What a session keeps from one statement to the next. */
public final class Sessions {
    public void isolationAndReadOnly(Case c) throws Exception {
        Connection connection = c.connect();
        for (int level : new int[] {Connection.TRANSACTION_SERIALIZABLE, Connection.TRANSACTION_READ_COMMITTED, Connection.TRANSACTION_READ_UNCOMMITTED,
            Connection.TRANSACTION_REPEATABLE_READ}) {
            connection.setTransactionIsolation(level);
            c.say(c.one(connection, c.mysqlServer ? "SELECT @@transaction_isolation" : "SELECT @@tx_isolation"));
            c.same(level, connection.getTransactionIsolation());
        }
        c.table(connection, "readonly", "id INT PRIMARY KEY");
        setReadOnly(c, connection, true);
        c.fails(() -> c.run(connection, "INSERT INTO readonly VALUES (1)"));
        c.fails(() -> c.run(connection, "INSERT INTO readonly VALUES (2)"));
        setReadOnly(c, connection, false);
        c.run(connection, "INSERT INTO readonly VALUES (3)", "SELECT * FROM readonly");
    }

    /** MariaDB's connector keeps it to itself, unless it was given several servers. */
    private static void setReadOnly(Case c, Connection connection, boolean only) throws Exception {
        connection.setReadOnly(only);
        if (!c.mysql) {
            c.run(connection, "SET SESSION TRANSACTION READ " + (only ? "ONLY" : "WRITE"));
        }
    }

    public void transactions(Case c) throws Exception {
        Connection connection = c.connect();
        Connection other = c.connect();
        c.table(connection, "tx", "id INT PRIMARY KEY");
        connection.setAutoCommit(false);
        for (int i = 0; i < 4; i++) {
            c.run(connection, "INSERT INTO tx VALUES (" + i + ")");
            c.say(c.one(other, "SELECT COUNT(*) FROM tx"));
            if (i % 2 == 0) {
                connection.commit();
            } else {
                connection.rollback();
            }
        }
        Savepoint before = connection.setSavepoint("before");
        c.run(connection, "INSERT INTO tx VALUES (50)");
        connection.rollback(before);
        c.run(connection, "INSERT INTO tx VALUES (51)");
        c.fails(() -> c.run(connection, "INSERT INTO tx VALUES (51)"));
        connection.commit();
        connection.setAutoCommit(true);
        c.run(connection, "SELECT * FROM tx", "BEGIN", "DELETE FROM tx", "ROLLBACK", "SELECT COUNT(*) FROM tx", "SELECT @@autocommit");
    }

    public void catalogsAndVariables(Case c) throws Exception {
        Connection connection = c.connect("sessionVariables=sql_mode='ANSI,NO_ZERO_DATE',group_concat_max_len=77");
        c.run(connection, "SELECT @@sql_mode, @@group_concat_max_len", "SET @a = 1, @b = 'text', @d = 1.50, @e = x'00ff'");
        connection.setCatalog("jdbcother");
        c.run(connection, "SELECT @a, @b, @d, HEX(@e), DATABASE()");
        c.same("jdbcother", connection.getCatalog());
        c.run(connection, "USE jdbctest", "SET SESSION sql_mode = ''", "SET lc_time_names = 'de_DE', max_join_size = 1000", "SELECT DATABASE(), @@sql_mode, MONTHNAME('2024-03-01'), @@max_join_size",
                "SELECT @a := @a + 1", "SELECT @a");
    }

    public void temporaryTablesAndLocks(Case c) throws Exception {
        Connection connection = c.connect();
        Connection other = c.connect();
        c.numbers(connection, "locked", 3);
        c.run(connection, "CREATE TEMPORARY TABLE tmp (id INT)", "INSERT INTO tmp VALUES (1), (2)", "SELECT SUM(id) FROM tmp", "DROP TEMPORARY TABLE tmp");
        c.fails(() -> c.run(connection, "SELECT * FROM tmp"));
        c.run(connection, "SELECT GET_LOCK('jdbc', 5)");
        c.run(other, "SELECT IS_FREE_LOCK('jdbc')", "SELECT GET_LOCK('jdbc', 0)");
        c.run(connection, "SELECT RELEASE_LOCK('jdbc')");
        c.run(other, "SELECT IS_FREE_LOCK('jdbc')");
        c.run(connection, "LOCK TABLES locked WRITE", "UPDATE locked SET v = 'x'");
        c.fails(() -> c.run(connection, "SELECT * FROM tx"));
        c.run(connection, "UNLOCK TABLES", "SELECT * FROM locked");
    }

    public void whatTheLastStatementSaid(Case c) throws Exception {
        Connection connection = c.connect("jdbcCompliantTruncation=false");
        c.table(connection, "said", "id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(3)");
        c.run(connection, "SET sql_mode = ''");
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("INSERT INTO said (v) VALUES ('too long'), ('ok')");
            c.warnings(statement.getWarnings());
        }
        c.run(connection, "SHOW WARNINGS", "INSERT INTO said (v) VALUES ('also too long')", "SHOW COUNT(*) WARNINGS", "SELECT LAST_INSERT_ID()", "SELECT LAST_INSERT_ID()",
                "SELECT SQL_CALC_FOUND_ROWS id FROM said LIMIT 1", "SELECT FOUND_ROWS()", "UPDATE said SET v = 'n'", "SELECT ROW_COUNT()");
        c.fails(() -> c.run(connection, "SELECT * FROM nowhere"));
        c.run(connection, "SHOW ERRORS", "SELECT 1/0");
        c.fails(() -> c.run(connection, "SELECT * FROM nowhere"));
        c.run(connection, "GET DIAGNOSTICS CONDITION 1 @n = MYSQL_ERRNO, @t = MESSAGE_TEXT", "SELECT @n, @t");
    }

    public void errorsThatASelectWithoutTablesLeaves(Case c) throws Exception {
        Connection connection = c.connect();
        c.run(connection, "SET sql_mode = ''");
        c.fails(() -> c.run(connection, "SELECT * FROM nowhere"));
        c.run(connection, "SELECT 1", "SHOW WARNINGS");
    }

    public void typeOfNull(Case c) throws Exception {
        Connection connection = c.connect();
        c.run(connection, "SET @c = NULL", "SELECT @c", "SELECT @unset");
    }

    public void foundRowsOption(Case c) throws Exception {
        for (String option : new String[] {"useAffectedRows=true", "useAffectedRows=false"}) {
            Connection connection = c.connect(option);
            c.numbers(connection, "affected", 5);
            c.run(connection, "UPDATE affected SET v = 'same'", "UPDATE affected SET v = 'same'");
        }
    }

    public void collations(Case c) throws Exception {
        for (String option : new String[] {"connectionCollation=utf8mb4_bin", "characterEncoding=latin1"}) {
            if (!c.mysql && option.startsWith("character")) {
                continue;
            }
            Connection connection = c.connect(option);
            c.run(connection, "SELECT 'ä', 'a' = 'A', @@character_set_client, @@collation_connection, @@character_set_results", "SELECT HEX('ä')");
        }
        Connection connection = c.connect();
        c.run(connection, "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci", "SELECT @@collation_connection, 'a' = 'A'", "SET CHARACTER SET utf8mb4", "SELECT @@collation_connection, @@character_set_client");
    }

    public void timeZones(Case c) throws Exception {
        Connection plain = c.connect();
        c.table(plain, "zones", "id INT PRIMARY KEY, ts TIMESTAMP(6) NULL, dt DATETIME(6)");
        for (String zone : new String[] {"+00:00", "-08:00", "+05:45"}) {
            String encoded = c.mysql ? zone.replace("+", "%2B") : zone;
            Connection connection = c.connect("connectionTimeZone=" + encoded + "&forceConnectionTimeZoneToSession=true");
            c.run(connection, "SELECT @@time_zone", "DELETE FROM zones");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO zones VALUES (?, ?, ?)")) {
                Timestamp time = new Timestamp(1_700_000_000_123L);
                insert.setInt(1, 1);
                insert.setTimestamp(2, time);
                insert.setTimestamp(3, time);
                insert.executeUpdate();
            }
            c.run(connection, "SELECT CAST(ts AS CHAR), CAST(dt AS CHAR), UNIX_TIMESTAMP(ts) FROM zones", "SET time_zone = '+01:00'", "SELECT CAST(ts AS CHAR), ts FROM zones", "SELECT @@time_zone");
        }
    }

    public void cancelAndTimeouts(Case c) throws Exception {
        Connection connection = c.connect();
        c.numbers(connection, "slow", 1500);
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            c.fails(() -> c.rows(statement.executeQuery("SELECT SUM(SLEEP(0.01)) FROM slow")));
        }
        c.run(connection, "SELECT 'after a timeout'");
        try (Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Connection watch = c.connect();
                    while (!"1".equals(c.one(watch, "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%cancel me%' AND info NOT LIKE '%processlist%'"))) {
                        Thread.onSpinWait();
                    }
                    statement.cancel();
                } catch (Exception failure) {
                    failure.printStackTrace();
                }
            });
            canceller.start();
            // MySQL's connector says what the server said, or that it was itself that cancelled: whichever it hears first.
            try {
                c.rows(statement.executeQuery("SELECT /* cancel me */ SUM(SLEEP(0.01)) FROM slow"));
                c.check(false, "it is cancelled");
            } catch (java.sql.SQLException cancelled) {
                c.say(c.mysql ? "cancelled" : c.told(cancelled));
            }
            canceller.join();
        }
        c.run(connection, "SELECT 'after a cancel'");
    }

    public void killedConnection(Case c) throws Exception {
        Connection connection = c.connect();
        Connection killer = c.connect();
        String id = c.one(connection, "SELECT CONNECTION_ID()");
        c.run(killer, "KILL " + id);
        try {
            for (int i = 0; i < 100; i++) {
                c.one(connection, "SELECT 1");
            }
            c.check(false, "a killed connection ends");
        } catch (java.sql.SQLException gone) {
            // The server's farewell may reach the client or not; what's certain is that it's over.
            c.say(connection.isValid(1));
        }
        // A server ends what was killed when it gets to it.
        long deadline = System.nanoTime() + 20_000_000_000L;
        while (!"0".equals(c.one(killer, "SELECT COUNT(*) FROM information_schema.processlist WHERE id = " + id))) {
            c.check(System.nanoTime() < deadline, "a killed connection leaves the processlist");
        }
    }

    public void resets(Case c) throws Exception {
        c.skipUnless(c.mysql || !c.mysqlServer, "MariaDB's connector resets nothing on MySQL");
        Connection connection = c.mysql ? c.connect() : c.connect("useResetConnection=true");
        c.run(connection, "SET @a = 1, SESSION sql_mode = 'ANSI'", "CREATE TEMPORARY TABLE reset_tmp (id INT)");
        if (c.mysql) {
            connection.unwrap(com.mysql.cj.jdbc.JdbcConnection.class).resetServerState();
        } else {
            connection.unwrap(org.mariadb.jdbc.Connection.class).reset();
        }
        c.run(connection, "SELECT @a, @@sql_mode, DATABASE()");
        c.fails(() -> c.run(connection, "SELECT * FROM reset_tmp"));
    }

    public void otherUser(Case c) throws Exception {
        c.skipUnless(c.mysql, "MariaDB's connector has no COM_CHANGE_USER");
        Connection connection = c.connect();
        c.run(connection, "SET @a = 1");
        connection.unwrap(com.mysql.cj.jdbc.JdbcConnection.class).changeUser("app", Case.PASSWORD);
        c.run(connection, "SELECT CURRENT_USER(), @a, DATABASE()", "SELECT 2");
        c.fails(() -> connection.unwrap(com.mysql.cj.jdbc.JdbcConnection.class).changeUser("app", "wrong"));
    }

    public void attributesAndInteractive(Case c) throws Exception {
        Connection admin = c.connect();
        c.run(admin, "SET GLOBAL interactive_timeout = 12345");
        try {
            Connection connection = c.mysql ? c.connect("interactiveClient=true", "connectionAttributes=shop:eu,team:db") : c.connect("connectionAttributes=shop:eu,team:db");
            c.run(connection, "SELECT @@wait_timeout = @@interactive_timeout");
            if (c.mysqlServer) {
                c.run(connection, "SELECT ATTR_NAME, ATTR_VALUE FROM performance_schema.session_connect_attrs WHERE PROCESSLIST_ID = CONNECTION_ID() "
                        + "AND ATTR_NAME IN ('shop', 'team', '_client_name') ORDER BY 1");
            }
        } finally {
            c.run(admin, "SET GLOBAL interactive_timeout = 28800");
        }
    }

    public void distributedTransactions(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "xa_", "id INT PRIMARY KEY");
        XADataSource source;
        if (c.mysql) {
            com.mysql.cj.jdbc.MysqlXADataSource mysql = new com.mysql.cj.jdbc.MysqlXADataSource();
            mysql.setUrl(c.url("jdbctest"));
            mysql.setUser("root");
            source = mysql;
        } else {
            org.mariadb.jdbc.MariaDbDataSource mariadb = new org.mariadb.jdbc.MariaDbDataSource(c.url("jdbctest"));
            mariadb.setUser("root");
            source = mariadb;
        }
        XAConnection xa = source.getXAConnection();
        try {
            XAResource resource = xa.getXAResource();
            for (int i = 0; i < 4; i++) {
                Xid xid = new Id(i);
                resource.start(xid, XAResource.TMNOFLAGS);
                c.run(xa.getConnection(), "INSERT INTO xa_ VALUES (" + i + ")");
                resource.end(xid, XAResource.TMSUCCESS);
                if (i % 2 == 0) {
                    c.say(resource.prepare(xid));
                    c.say(resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length);
                    resource.commit(xid, false);
                } else {
                    resource.rollback(xid);
                }
                try {
                    resource.commit(xid, false);
                    c.check(false, "a transaction that's over isn't known");
                } catch (XAException unknown) {
                    c.say(unknown.errorCode);
                }
            }
        } finally {
            xa.close();
        }
        c.run(connection, "SELECT * FROM xa_ ORDER BY id");
    }

    private record Id(int number) implements Xid {
        @Override public int getFormatId() {
            return 1;
        }

        @Override public byte[] getGlobalTransactionId() {
            return new byte[] {1, 2, (byte) number};
        }

        @Override public byte[] getBranchQualifier() {
            return new byte[] {3, (byte) number};
        }
    }

    public void manyThreads(Case c) throws Exception {
        Connection connection = c.connect();
        c.table(connection, "threads", "id INT PRIMARY KEY, v INT");
        c.run(connection, "INSERT INTO threads VALUES (1, 0), (2, 0)");
        ExecutorService pool = Executors.newFixedThreadPool(6);
        List<Callable<Integer>> tasks = new ArrayList<>();
        for (int n = 0; n < 6; n++) {
            Connection own = c.connect("useServerPrepStmts=" + (n % 2 == 0));
            tasks.add(() -> {
                int done = 0;
                try (PreparedStatement add = own.prepareStatement("UPDATE threads SET v = v + ? WHERE id = ?")) {
                    for (int i = 0; i < 25; i++) {
                        own.setAutoCommit(i % 3 != 0);
                        for (int id = 1; id <= 2; id++) {
                            add.setInt(1, 1);
                            add.setInt(2, id);
                            done += add.executeUpdate();
                        }
                        if (i % 3 == 0) {
                            own.commit();
                        }
                    }
                }
                return done;
            });
        }
        int sum = 0;
        for (Future<Integer> done : pool.invokeAll(tasks)) {
            sum += done.get();
        }
        pool.shutdown();
        c.same(300, sum);
        c.run(connection, "SELECT * FROM threads");
    }

    public void closedInTheMiddle(Case c) throws Exception {
        Connection watch = c.connect();
        for (int i = 0; i < 5; i++) {
            Connection connection = c.connect();
            Statement statement = connection.createStatement();
            statement.setFetchSize(c.mysql ? Integer.MIN_VALUE : 1);
            ResultSet rows = statement.executeQuery("SELECT 'left', a.table_name FROM information_schema.columns a, information_schema.columns b LIMIT 100000");
            rows.next();
            connection.abort(Runnable::run);
        }
        String left = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%''left'', a.table%' AND info NOT LIKE '%processlist%'";
        long deadline = System.nanoTime() + 20_000_000_000L;
        while (!"0".equals(c.one(watch, left))) {
            c.check(System.nanoTime() < deadline, "statements of clients that left end");
        }
    }
}
