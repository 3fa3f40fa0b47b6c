"""The tables that are copied, shape by shape. Made by the server itself, with MariaDB's sequences."""

from dataclasses import dataclass

SCHEMA = "copied"
SYSBENCH = """CREATE TABLE {name} (id INT NOT NULL AUTO_INCREMENT, k INT NOT NULL DEFAULT 0, c CHAR(120) NOT NULL DEFAULT '',
  pad CHAR(60) NOT NULL DEFAULT '', PRIMARY KEY (id), KEY k_1 (k)) ENGINE = InnoDB DEFAULT CHARSET = latin1"""
C = "SUBSTRING(CONCAT(MD5(seq), '-', MD5(seq + 1), '-', MD5(seq + 2), '-', MD5(seq + 3)), 1, 119)"
PAD = "SUBSTRING(CONCAT(MD5(seq + 4), '-', MD5(seq + 5)), 1, 59)"


@dataclass(frozen=True)
class Shape:
    """Some tables of one kind. `rows` is of each; `key` how the command line calls it. With `is_many` there are fewer
    tables at a smaller scale, otherwise fewer rows in each."""

    key: str
    title: str
    tables: int
    rows: int
    definition: str
    values: str
    index: str = ""
    is_many: bool = False

    def statements(self, scale):
        """What makes and fills the tables."""
        yield f"DROP DATABASE IF EXISTS {SCHEMA}; CREATE DATABASE {SCHEMA}"
        each = self.rows_each(scale)
        for name in self.names(scale):
            yield f"USE {SCHEMA}; {self.definition.format(name=name)}; INSERT INTO {name} SELECT {self.values} FROM seq_1_to_{each}"

    def rows_each(self, scale):
        return self.rows if self.is_many else max(1, int(self.rows * scale))

    def names(self, scale):
        count = max(1, int(self.tables * scale)) if self.is_many else self.tables
        return [f"t{number + 1}" for number in range(count)]

    def bare(self, name):
        """The definition without the secondary index, which the floor builds afterwards."""
        definition = self.definition.format(name=name)
        return definition.replace(f", {self.index}", "") if self.index else definition


def wide():
    """A hundred columns of ten types."""
    kinds = ["INT", "BIGINT UNSIGNED", "DECIMAL(20,5)", "DOUBLE", "FLOAT", "DATE", "DATETIME(6)", "VARCHAR(40)", "TINYINT", "CHAR(8)"]
    values = [
        "seq", "seq * 1000003", "seq / 7", "seq / 3", "seq / 9", "'2020-01-01' + INTERVAL seq % 3000 DAY",
        "'2020-01-01' + INTERVAL seq SECOND", "MD5(seq)", "seq % 100", "LEFT(MD5(seq), 8)",
    ]  # fmt: skip
    columns = ", ".join(f"c{number} {kinds[number % 10]} NOT NULL" for number in range(99))
    definition = f"CREATE TABLE {{name}} (id INT NOT NULL PRIMARY KEY, {columns}) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"
    return definition, "seq, " + ", ".join(values[number % 10] for number in range(99))


WIDE, WIDE_VALUES = wide()
LOB = "CREATE TABLE {name} (id INT NOT NULL PRIMARY KEY, b LONGBLOB NOT NULL) ENGINE = InnoDB"
LOB_VALUES = "seq, REPEAT(UNHEX(CONCAT(MD5(seq), MD5(seq + 1))), 2000 + seq % 8000)"
SMALL = "CREATE TABLE {name} (id INT NOT NULL PRIMARY KEY, a VARCHAR(40) NOT NULL, KEY a (a)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"

SHAPES = [
    Shape("four", "sysbench rows, 4 tables", 4, 500_000, SYSBENCH, f"seq, seq % 499979, {C}, {PAD}", "KEY k_1 (k)"),
    Shape("one", "sysbench rows, 1 table", 1, 2_000_000, SYSBENCH, f"seq, seq % 499979, {C}, {PAD}", "KEY k_1 (k)"),
    Shape("wide", "100 columns, 4 tables", 4, 50_000, WIDE, WIDE_VALUES),
    Shape("lobs", "LOBs of 64 to 83 KB, 4 tables", 4, 600, LOB, LOB_VALUES),
    Shape("small", "2,000 tables of 100 rows", 2_000, 100, SMALL, "seq, MD5(seq)", "KEY a (a)", True),
]
