//! From the source CREATE TABLE to one the target takes. (H6)
