// Tests of our own for mysql2: suite.js ENGINE PORT RESULTS. Each writes down what it saw, to be compared with a direct connection's.
'use strict';
const mysql = require('mysql2/promise');
const crypto = require('crypto');
const fs = require('fs');
const { Readable } = require('stream');

const [engine, port, results] = process.argv.slice(2);
const BASE = { host: '127.0.0.1', port: Number(port), user: 'root', password: '', database: 'test' };
const PASSWORD = 'App-1_pass';
const open = [];

async function connect(options) {
  const connection = await mysql.createConnection({ ...BASE, ...options });
  open.push(connection);
  return connection;
}

const told = error => `${error.errno} ${error.code} ${error.sqlState} ${String(error.message).replace(/\d+\.\d+ ms/, '')}`;
const text = value => JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}n` : v && v.type === 'Buffer' ? Buffer.from(v.data).toString('hex') : v));
const digest = value => `${value.length}:${crypto.createHash('sha256').update(value).digest('hex').slice(0, 16)}`;

async function fails(say, promise) {
  let error = null;
  try { await promise; } catch (found) { error = found; }
  if (!error) throw new Error('it should fail');
  say(told(error));
}

const TYPES = `id INT AUTO_INCREMENT PRIMARY KEY, t TINYINT, u BIGINT UNSIGNED, d DECIMAL(40,10), f FLOAT, g DOUBLE, b BIT(9), da DATE, dt DATETIME(6),
  ts TIMESTAMP(3) NULL, ti TIME(2), y YEAR, v VARCHAR(50), bn BINARY(4), bl BLOB, e ENUM('x','y'), s SET('p','q'), j JSON`;

const tests = {
  async text(say) {
    const c = await connect({ supportBigNumbers: true, dateStrings: true });
    for (const sql of [`CREATE OR REPLACE VIEW vw AS SELECT 1 AS one`, 'SELECT * FROM vw', 'DROP TABLE IF EXISTS types', `CREATE TABLE types (${TYPES})`,
      `INSERT INTO types VALUES (1, -128, 18446744073709551615, '123456789012345678901234567890.0123456789', 1.5, -2.25e100, b'101010101', '1000-01-01',
       '2024-02-29 23:59:59.999999', '2024-02-29 23:59:59.999', '-12:00:00.5', 2155, 'äöü€😀', 'ab', x'00ff10', 'y', 'p,q', '{"a": [1, null]}')`,
      'INSERT INTO types (id) VALUES (7)', 'SELECT * FROM types', 'UPDATE types SET t = 1', 'SELECT 1 FROM DUAL WHERE 1 = 0', 'DELETE FROM types']) {
      const [rows, fields] = await c.query(sql);
      say(text(rows), fields && text(fields.map(f => [f.name, f.columnType, f.flags])));
    }
  },
  async prepared(say) {
    const c = await connect({ supportBigNumbers: true, dateStrings: true, maxPreparedStatements: 5 });
    await c.query('DROP TABLE IF EXISTS ptypes');
    await c.query(`CREATE TABLE ptypes (${TYPES})`);
    // MySQL goes by the types of earlier executions where a parameter stands alone, which no move can carry over (README).
    const echo = engine === 'mysql97' ? 'CONCAT(?, \'\')' : '?';
    for (const v of [1, 'text', null, 2.5, new Date(1700000000000), Buffer.from([65, 66]), true, 12345678901234]) {
      say(text((await c.execute('INSERT INTO ptypes (v, bl) VALUES (?, ?)', [v, v]))[0]));
      say(text((await c.execute(`SELECT ${echo} AS a, CONCAT(?, 1) AS b`, [v, v]))[0]));
    }
    say(text((await c.execute('SELECT * FROM ptypes WHERE id > ?', [2]))[0]));
    for (let i = 0; i < 30; i++) say(text((await c.execute(`SELECT ? + ${i % 9} AS n`, [i]))[0]));
    const statement = await c.prepare('SELECT id, ? AS x FROM ptypes WHERE id < ?');
    for (let i = 1; i < 4; i++) say(text((await statement.execute([i, i]))[0]));
    await statement.close();
    await fails(say, c.execute('SELECT * FROM nowhere WHERE a = ?', [1]));
    await fails(say, c.execute('SELEC ?', [1]));
    say(text((await c.execute('SELECT 1 AS after_errors'))[0]));
  },
  async several(say) {
    const c = await connect({ multipleStatements: true });
    await c.query('DROP PROCEDURE IF EXISTS p; CREATE PROCEDURE p(IN a INT, OUT b INT) BEGIN SELECT a; SET b = a + 1; SELECT \'second\' AS s; END');
    say(text((await c.query('SELECT 1 AS a; SET @x = 5; SELECT @x AS b; CALL p(3, @b); SELECT @b AS b'))[0]));
    say(text((await c.execute('CALL p(?, @b)', [8]))[0]), text((await c.query('SELECT @b AS b'))[0]));
    await fails(say, c.query('SELECT 1; SELECT broken; SELECT 3'));
    await fails(say, (await connect()).query('SELECT 1; SELECT 2'));
  },
  async localInfile(say) {
    const c = await connect();
    await c.query('DROP TABLE IF EXISTS loaded');
    await c.query('CREATE TABLE loaded (id INT PRIMARY KEY, v VARCHAR(50))');
    const lines = () => Readable.from((function* () { for (let i = 0; i < 40000; i++) yield Buffer.from(`${i}\trow number ${i}\n`); })());
    say(text((await c.query({ sql: 'LOAD DATA LOCAL INFILE "x" INTO TABLE loaded', infileStreamFactory: lines }))[0]));
    say(text((await c.query('SELECT COUNT(*) AS n, SUM(id) AS s FROM loaded'))[0]));
    await fails(say, c.query({ sql: 'LOAD DATA LOCAL INFILE "x" INTO TABLE loaded_not', infileStreamFactory: lines }));
    await c.query('DELETE FROM loaded');
    await fails(say, c.query('LOAD DATA LOCAL INFILE "x" INTO TABLE loaded'));
    say(text((await c.query('SELECT COUNT(*) AS n FROM loaded'))[0]));
  },
  async streams(say) {
    const c = await connect();
    const numbers = 'SELECT a.ordinal_position + b.ordinal_position AS n FROM information_schema.columns a, information_schema.columns b LIMIT 20000';
    const count = stream => new Promise((done, failed) => {
      let rows = 0;
      stream.on('data', () => { rows++; if (rows % 5000 === 0) { stream.pause(); setImmediate(() => stream.resume()); } }).on('end', () => done(rows)).on('error', failed);
    });
    say(await count(c.connection.query(numbers).stream({ highWaterMark: 5 })));
    say(await count(c.connection.execute(numbers, []).stream()));
    say(text((await c.query('SELECT 1'))[0]));
  },
  async bigPackets(say) {
    const c = await connect();
    await c.query('DROP TABLE IF EXISTS big');
    await c.query('CREATE TABLE big (id INT PRIMARY KEY, v LONGBLOB)');
    for (const size of [0xffffff - 60, 0xffffff, 18000000]) {
      const value = Buffer.alloc(size, 'q');
      await c.execute('REPLACE INTO big VALUES (1, ?)', [value]);
      say(digest((await c.query('SELECT v FROM big'))[0][0].v), digest((await c.execute('SELECT v FROM big'))[0][0].v));
    }
    for (let size = 0xffffff - 6; size < 0xffffff - 1; size++) say((await c.query(`SELECT REPEAT('x', ${size}) AS x`))[0][0].x.length);
  },
  async changeUser(say) {
    const c = await connect();
    await c.query('SET @a = 1');
    await c.changeUser({ user: 'app', password: PASSWORD, database: 'test' });
    say(text((await c.query('SELECT CURRENT_USER() AS u, @a AS a, DATABASE() AS d'))[0]));
    await c.query('SET @a = 2, SESSION sql_mode = \'ANSI\'');
    await c.changeUser({ user: 'app', password: PASSWORD, database: 'test' });
    say(text((await c.query('SELECT CURRENT_USER() AS u, DATABASE() AS d, @a AS a'))[0]));
    await fails(say, c.changeUser({ user: 'app', password: 'wrong' }));
  },
  async logins(say) {
    for (const ssl of [undefined, { rejectUnauthorized: false }]) {
      for (const compress of [false, true]) {
        const c = await connect({ user: 'app', password: PASSWORD, ssl, compress });
        say(text((await c.query('SELECT CURRENT_USER() AS u'))[0]), (await c.query('SELECT REPEAT("ab", 3000000) AS x'))[0][0].x.length);
        say(text((await c.query(`SELECT LENGTH('${'y'.repeat(2000000)}') AS l`))[0]), text((await c.execute('SELECT ? AS x', ['z'.repeat(70000)]))[0]).length);
      }
      await fails(say, connect({ user: 'app', password: 'wrong', ssl }));
    }
    await fails(say, connect({ database: 'nowhere' }));
    await fails(say, connect({ user: 'app', password: PASSWORD, ssl: { rejectUnauthorized: true } }).catch(e => { throw new Error(e.code); }));
  },
  async pools(say) {
    const pool = mysql.createPool({ ...BASE, connectionLimit: 4 });
    await pool.query('DROP TABLE IF EXISTS pool');
    await pool.query('CREATE TABLE pool (id INT PRIMARY KEY, n INT)');
    await pool.query('INSERT INTO pool VALUES (1, 0)');
    await Promise.all(Array.from({ length: 60 }, async (_, i) => {
      if (i % 3) return pool.execute('UPDATE pool SET n = n + ? WHERE id = ?', [1, 1]);
      const c = await pool.getConnection();
      await c.beginTransaction();
      await c.query('UPDATE pool SET n = n + 1');
      await (i % 2 ? c.rollback() : c.commit());
      return c.release();
    }));
    say(text((await pool.query('SELECT n FROM pool'))[0]));
    await pool.end();
  },
  async pipelined(say) {
    // Queued without a wait between them.
    const c = await connect();
    const all = [];
    for (let i = 0; i < 50; i++) all.push(c.query(`SET @p = ${i}`), c.query('SELECT @p AS p'), c.execute('SELECT ? AS q', [i]), c.ping());
    for (const one of all.slice()) { const r = await one; if (Array.isArray(r) && Array.isArray(r[0])) say(text(r[0])); }
  },
  async sessions(say) {
    const c = await connect();
    for (const sql of ['SET SESSION sql_mode = \'ANSI_QUOTES\'', 'SET time_zone = \'+05:30\'', 'USE other', 'SET @v = \'ü\'', 'SET NAMES latin1', 'CREATE TEMPORARY TABLE tmp (a INT)',
      'INSERT INTO tmp VALUES (1)', 'SELECT * FROM tmp', 'DROP TEMPORARY TABLE tmp', 'SELECT @@sql_mode AS m, @@time_zone AS z, DATABASE() AS d, HEX(@v) AS v, @@character_set_client AS c',
      'SET autocommit = 0', 'SAVEPOINT s', 'SELECT @@autocommit AS a', 'ROLLBACK TO s', 'COMMIT', 'SET autocommit = 1', 'SELECT GET_LOCK(\'l\', 1) AS l', 'SELECT RELEASE_LOCK(\'l\') AS r',
      'PREPARE t FROM \'SELECT ? + 1 AS n\'', 'SET @n = 4', 'EXECUTE t USING @n', 'DEALLOCATE PREPARE t']) {
      say(text((await c.query(sql))[0]));
    }
  },
  async cancelled(say) {
    const c = await connect();
    const id = c.connection.threadId;
    const other = await connect();
    say(id === (await c.query('SELECT CONNECTION_ID() AS i'))[0][0].i);
    const slow = fails(say, c.query('SELECT SUM(SLEEP(0.01)) FROM (SELECT 1 FROM information_schema.columns LIMIT 1500) t'));
    while (!(await other.query('SELECT COUNT(*) AS n FROM information_schema.processlist WHERE info LIKE \'%SUM(SLEEP%\' AND info NOT LIKE \'%processlist%\''))[0][0].n) await null;
    await other.query(`KILL QUERY ${id}`);
    await slow;
    say(text((await c.query('SELECT 1'))[0]));
  },
};

async function main() {
  // The older tests leave their tables, and a limit of ten prepared statements. A session that is moved has its statements twice,
  // because both backends are one server here.
  const admin = await mysql.createConnection(BASE);
  for (const sql of ['DROP DATABASE test', 'CREATE DATABASE test CHARACTER SET utf8mb4', 'SET GLOBAL max_prepared_stmt_count = DEFAULT']) await admin.query(sql);
  admin.destroy();
  const outcomes = {};
  for (const [name, test] of Object.entries(tests)) {
    const seen = [];
    try {
      await test((...what) => seen.push(...what));
      outcomes[`suite::${name}`] = `passed: ${seen.join(' | ')}`;
    } catch (error) {
      console.error(name, error);
      outcomes[`suite::${name}`] = `failed: ${told(error)} after ${seen.join(' | ')}`;
    }
    for (const connection of open.splice(0)) { connection.on('error', () => {}); connection.destroy(); }
  }
  fs.writeFileSync(results, JSON.stringify(outcomes, null, 1));
  process.exit(0);
}

process.on('uncaughtException', error => console.error('uncaught', error));
main();
