//! Tests of the commands that make a network; the network itself needs root.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_cut_drops_both_directions_of_each_pair() {
    let [a, b, c]: [Ipv4Addr; 3] =
        ["198.18.7.31", "198.18.7.11", "198.18.7.12"].map(|text| text.parse().unwrap());
    assert_eq!(
        rules("add", 1003, &[(a, b), (a, c)]),
        "rule add preference 1003 from 198.18.7.31 to 198.18.7.11 blackhole\n\
         rule add preference 1003 from 198.18.7.11 to 198.18.7.31 blackhole\n\
         rule add preference 1003 from 198.18.7.31 to 198.18.7.12 blackhole\n\
         rule add preference 1003 from 198.18.7.12 to 198.18.7.31 blackhole\n"
    );
}

#[test]
fn a_url_keeps_all_but_its_host() {
    let host = "198.18.7.3".parse().unwrap();
    for (url, server, moved) in [
        (
            "redis://127.0.0.1:6379",
            "127.0.0.1:6379",
            "redis://198.18.7.3:6379",
        ),
        (
            "redis://127.0.0.1:6379/3",
            "127.0.0.1:6379",
            "redis://198.18.7.3:6379/3",
        ),
        (
            "postgres://me:p@ss@127.0.0.1:5432/a?b=c/d",
            "127.0.0.1:5432",
            "postgres://me:p@ss@198.18.7.3:5432/a?b=c/d",
        ),
    ] {
        let found = replace_address(url, host).unwrap();
        assert_eq!(found, (server.to_owned(), moved.to_owned()));
    }
    assert!(replace_address("redis", host).is_none());
    assert!(replace_address("unix:///run/redis", host).is_none());
}

#[test]
fn only_what_dead_tools_left_is_removed() {
    let list = "sestina-12-hub (id: 3)\nsestina-13-edge-1\nother\nsestina-x\nsestina-a-b\n";
    let found = abandoned(list, |pid| pid == 13);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["sestina-12-hub"]);
}

#[test]
fn names_of_interfaces_are_short_enough_for_the_kernel() {
    let longest = "sestina".len() + u32::pow(2, 22).to_string().len();
    assert!(longest <= 15);
}
