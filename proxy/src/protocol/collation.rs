//! Collation ids that one family of servers has and another hasn't.

use config::{Flavor, ServerVersion};

const UTF8MB3_GENERAL_CI: u16 = 33;
const UTF8MB4_GENERAL_CI: u16 = 45;
const UTF8MB4_BIN: u16 = 46;
const UTF8MB4_0900_AI_CI: u16 = 255;
const UTF8MB4_0900_BIN: u16 = 309;

/// The id to log in with where a client of the other family, or of a newer version, asked for `id`.
///
/// A server takes an id that it doesn't know for its own default, which may be latin1, while the client goes
/// on in utf8mb4: text would be stored wrong. So the same character set is asked for, with the server's
/// nearest collation.
#[must_use]
pub fn known_collation(version: Option<ServerVersion>, id: u16) -> u16 {
    let Some(version) = version else { return id };
    let knows_0900 = version.at_least(Flavor::MySql, 8, 0);
    match (version.flavor, id) {
        (_, UTF8MB4_0900_BIN) if !knows_0900 => UTF8MB4_BIN,
        // All ids of MySQL from here to 323 are of utf8mb4.
        (_, UTF8MB4_0900_AI_CI..=323) if !knows_0900 => UTF8MB4_GENERAL_CI,
        // MariaDB: the collation without the trailing spaces of that 1024 below it.
        (Flavor::MySql, 1025..=1278) => id - 1024,
        // MariaDB: uca1400.
        (Flavor::MySql, 2048..=2303) => UTF8MB3_GENERAL_CI,
        (Flavor::MySql, 2304..=2559) if knows_0900 => UTF8MB4_0900_AI_CI,
        (Flavor::MySql, 2304..=2559) => UTF8MB4_GENERAL_CI,
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_id_keeps_its_character_set() {
        let check = |version: &str, id: u16, known: u16| {
            assert_eq!(known_collation(ServerVersion::parse(version), id), known, "{version} {id}");
        };
        check("9.7.4", 255, 255);
        check("9.7.4", 309, 309);
        check("9.7.4", 45, 45);
        check("9.7.4", 1069, 45);
        check("9.7.4", 2304, 255);
        check("9.7.4", 2048, 33);
        check("5.6.24", 255, 45);
        check("5.6.24", 2304, 45);
        check("5.5.5-10.11.19-MariaDB", 255, 45);
        check("5.5.5-10.11.19-MariaDB", 309, 46);
        check("5.5.5-10.11.19-MariaDB", 1069, 1069);
        check("5.5.5-10.11.19-MariaDB", 8, 8);
        check("garbage", 255, 255);
    }
}
