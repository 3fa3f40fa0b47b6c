//! The replicator as the rest of the binary sees it. (lead)
