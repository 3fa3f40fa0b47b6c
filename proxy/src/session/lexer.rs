//! A single pass over statement text: what may it change in the session? (H3)
