use super::*;

const BOUNDS: Bounds = Bounds { all: 8, each: 4 };

fn is_held(place: &mut ConnectionSlot) -> bool {
    place.poll_lost(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
}

#[test]
fn one_guest_has_so_many_places_and_loses_the_oldest() {
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut other = places.admit("other");
    let mut greedy: Vec<_> = (0..100).map(|_| places.admit("greedy")).collect();
    assert!(greedy[..96].iter_mut().all(|place| !is_held(place)));
    assert!(greedy[96..].iter_mut().all(is_held), "the newest four");
    assert!(is_held(&mut other), "nobody else's");
}

#[test]
fn when_all_are_taken_whoever_has_most_gives_one_up() {
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut greedy: Vec<_> = (0..4).map(|_| places.admit(0)).collect();
    let mut modest: Vec<_> = (1..=4).map(|guest| places.admit(guest)).collect();
    let mut one_more = places.admit(5);
    assert!(!is_held(&mut greedy[0]) && greedy[1..].iter_mut().all(is_held));
    assert!(modest.iter_mut().all(is_held) && is_held(&mut one_more));
    // Many guests have one place each: the oldest loses it, and the newest is always let in.
    let mut many: Vec<_> = (10..1_000).map(|guest| places.admit(guest)).collect();
    assert_eq!(many.iter_mut().filter_map(|place| is_held(place).then_some(())).count(), BOUNDS.all);
    assert!(is_held(many.last_mut().unwrap()));
}

#[test]
fn a_connection_that_ended_has_no_place() {
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut first = places.admit("a");
    for _ in 0..100 {
        drop(places.admit("a"));
    }
    assert!(is_held(&mut first));
    assert_eq!(places.taken.len(), 2, "nor does it take memory");
}

#[test]
fn a_place_that_is_lost_stays_so() {
    let mut places = ConnectionSlots::new(Bounds { all: 1, each: 1 });
    let mut first = places.admit("a");
    let _second = places.admit("b");
    assert!(!is_held(&mut first) && !is_held(&mut first));
}

#[test]
fn a_listener_that_ends_takes_no_place_away() {
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut first = places.admit("a");
    drop(places);
    assert!(is_held(&mut first) && is_held(&mut first), "an answer under way comes to its end");
}

#[test]
fn an_ipv6_network_is_one_guest_and_ipv4_is_ipv4() {
    let of = |text: &str| origin(text.parse().unwrap()).to_string();
    assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
    assert_eq!(of("192.0.2.7"), "192.0.2.7");
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
}

#[tokio::test]
async fn an_ipv4_client_of_an_ipv6_listener_is_said_as_ipv4() {
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut places = ConnectionSlots::new(BOUNDS);
    let (stream, accepted) = tokio::join!(TcpStream::connect(("127.0.0.1", port)), accept(&listener, &mut places));
    let (_, address, _) = accepted.unwrap();
    assert_eq!(address, stream.unwrap().local_addr().unwrap());
    assert!(address.is_ipv4());
}
