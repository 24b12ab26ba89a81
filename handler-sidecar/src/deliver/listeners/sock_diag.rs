//! The question of `sock_diag(7)` for TCP sockets that listen, and the kernel's answer (`linux/inet_diag.h`). It costs
//! microseconds however many connections there are: the kernel keeps listeners in a table of their own.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// `AF_NETLINK` and `NETLINK_SOCK_DIAG`.
const NETLINK: (i32, i32) = (16, 4);
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// A set with the state LISTEN alone.
const LISTENING: u32 = 1 << 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const REQUEST: usize = HEADER + 56;
/// The kernel answers in pieces of so many bytes at most (`netlink_dump`).
const MAX_PIECE: usize = 32 << 10;
/// An answer has so many pieces at most: thousands of listeners.
const MAX_PIECES: usize = 32;

/// All listeners of the network namespace.
///
/// # Errors
/// The kernel does not answer this question: its kind of socket may be forbidden (seccomp), or not known.
pub fn listeners() -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        ask(family, &mut found)?;
    }
    Ok(found)
}

fn ask(family: u8, found: &mut Vec<SocketAddr>) -> io::Result<()> {
    let (domain, protocol) = NETLINK;
    let mut socket = Socket::new(Domain::from(domain), Type::DGRAM, Some(Protocol::from(protocol)))?;
    // The kernel has each piece ready when it is asked for.
    socket.set_nonblocking(true)?;
    let sequence = fastrand::u32(..);
    let sent = socket.write(&request(family, sequence))?;
    if sent != REQUEST {
        return Err(ErrorKind::WriteZero.into());
    }
    let mut piece = vec![0; MAX_PIECE];
    for _ in 0..MAX_PIECES {
        let bytes = socket.read(&mut piece)?;
        if read(&piece[..bytes], sequence, found)? {
            return Ok(());
        }
    }
    Err(io::Error::new(ErrorKind::InvalidData, "the answer does not end"))
}

/// A `struct inet_diag_req_v2` for all listeners of this family.
fn request(family: u8, sequence: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    let length = u32::try_from(REQUEST).unwrap_or_default();
    let fields: [(usize, &[u8]); 6] = [
        (0, &length.to_ne_bytes()),
        (4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes()),
        (6, &DUMP.to_ne_bytes()),
        (8, &sequence.to_ne_bytes()),
        (HEADER, &[family, IPPROTO_TCP]),
        (HEADER + 4, &LISTENING.to_ne_bytes()),
    ];
    for (at, bytes) in fields {
        request[at..at + bytes.len()].copy_from_slice(bytes);
    }
    request
}

/// Reads a piece of the answer to the question of this number. Whether it was the last one.
fn read(mut piece: &[u8], sequence: u32, found: &mut Vec<SocketAddr>) -> io::Result<bool> {
    let invalid = || io::Error::new(ErrorKind::InvalidData, "the answer cannot be read");
    while !piece.is_empty() {
        let length = usize::try_from(u32_at(piece, 0).ok_or_else(invalid)?).map_err(|_| invalid())?;
        let (kind, number) = (u16_at(piece, 4), u32_at(piece, 8));
        let message = piece.get(HEADER..length).ok_or_else(invalid)?;
        match kind {
            _ if number != Some(sequence) => return Err(invalid()),
            // Both begin with an error's number, or zero, with its sign turned.
            Some(kind @ (NLMSG_DONE | NLMSG_ERROR)) => {
                let error = i32::from_ne_bytes(four(message, 0).ok_or_else(invalid)?);
                if error != 0 || kind == NLMSG_ERROR {
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                return Ok(true);
            }
            Some(SOCK_DIAG_BY_FAMILY) => found.push(listener(message).ok_or_else(invalid)?),
            _ => {}
        }
        // The next one begins at a multiple of four.
        piece = piece.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The own address in a `struct inet_diag_msg`: family, state and two more bytes, both ports, and the address.
fn listener(message: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let ip = match *message.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(four(message, 8)?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    four(bytes, at).map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &sequence.to_ne_bytes()].concat();
        message.extend([0; 4]);
        message.extend(payload);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn what_listens_is_found() {
        let addresses = ["127.0.0.1:0", "127.0.0.2:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];
        let open: Vec<_> = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        let connected = std::net::TcpStream::connect(open[0].local_addr().unwrap()).unwrap();
        let found = listeners().unwrap();
        for listener in &open {
            let address = listener.local_addr().unwrap();
            assert!(found.contains(&address), "{address} is not among {found:?}");
        }
        let client = connected.local_addr().unwrap();
        assert!(!found.contains(&client), "{client} is a connection");
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let of = |family: u8, address: &[u8]| [&[family, 10, 0, 0, 0x1F, 0x90, 0, 0][..], address, &[0; 48]].concat();
        let first = message(SOCK_DIAG_BY_FAMILY, 7, &of(AF_INET, &[[127, 0, 0, 1], [0; 4], [0; 4], [0; 4]].concat()));
        let mut loopback = [0; 16];
        loopback[15] = 1;
        let second = message(SOCK_DIAG_BY_FAMILY, 7, &of(AF_INET6, &loopback));
        let done = message(NLMSG_DONE, 7, &[0; 4]);
        let mut found = Vec::new();
        assert!(!read(&[first.clone(), second.clone()].concat(), 7, &mut found).unwrap(), "more comes");
        assert!(read(&[first, done].concat(), 7, &mut found).unwrap());
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8080"]);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let refused = |kind, error: i32| read(&message(kind, 7, &error.to_ne_bytes()), 7, &mut Vec::new());
        assert_eq!(refused(NLMSG_ERROR, -2).unwrap_err().kind(), ErrorKind::NotFound, "the kernel has no such module");
        assert_eq!(refused(NLMSG_DONE, -1).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(refused(NLMSG_ERROR, 0).is_err() && refused(NLMSG_ERROR, i32::MIN).is_err());
        let done = message(NLMSG_DONE, 7, &[0; 4]);
        assert!(read(&done, 8, &mut Vec::new()).is_err(), "of another question");
        for cut in 1..done.len() {
            assert!(read(&done[..cut], 7, &mut Vec::new()).is_err(), "{cut} bytes");
        }
        let unknown = message(SOCK_DIAG_BY_FAMILY, 7, &[99; 72]);
        assert!(read(&unknown, 7, &mut Vec::new()).is_err(), "of another family");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(
            head in (0u32..200, 0u16..24, 0u16..3, 0u32..3),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let (length, kind, flags, sequence) = head;
            let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &sequence.to_ne_bytes()];
            let mut found = Vec::new();
            let _ = read(&[&head.concat()[..], &rest].concat(), 1, &mut found);
            prop_assert!(found.len() <= rest.len() / HEADER + 1);
        }
    }
}
