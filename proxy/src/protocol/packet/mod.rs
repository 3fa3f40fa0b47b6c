//! One packet a file: handshake, handshake response, auth switch, OK, ERR. (H2)
