//! The keys that a transaction touches, as hashes that are equal where the server says equal. (H7)
