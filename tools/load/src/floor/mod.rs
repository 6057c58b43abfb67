//! The floor: the least that any server must spend on the same traffic.
//!
//! A bare TLS server without XMPP. It sends pre-made frames of a given size to the sockets that
//! would get a delivery, asks for acknowledgements as a server with XEP-0198 does, reads them, and
//! answers the client's requests. *Plain* makes one record and one write of each delivery;
//! *coalescing* combines the deliveries of one turn for a socket into one record and one write.
//!
//! After the handshake a client describes itself with one line (see `hello`).

pub mod hello;
pub mod peers;
pub mod server;
