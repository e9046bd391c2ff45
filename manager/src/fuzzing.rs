//! What fuzzing feeds to the decoders of the manager (`fuzz/`): state files, what balancers say, what commands ask.

use bellwether_proto::{key::KeyPair, v1};
use bellwether_store::state_file::fuzzing::body;
use prost::Message;

use crate::{
    balancer::fuzzing as balancers, change::Asked, group::PolicyChange, halt::Halt, procedure::SignedDocument,
    tokens::Tokens,
};

/// What HAProxy answers to `show servers state`, and after a line `===` to `show stat`.
pub fn haproxy(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        balancers::haproxy(text);
    }
}

/// An nginx upstream file.
pub fn nginx(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        balancers::nginx(text);
    }
}

/// The document of procedures: as JSON that a manager signed, and as a message.
pub fn procedures(bytes: &[u8]) {
    let key = KeyPair::generate();
    let wire = v1::SignedProcedures {
        document: bytes::Bytes::copy_from_slice(bytes),
        signer: bytes::Bytes::copy_from_slice(key.public().as_bytes()),
        signature: bytes::Bytes::copy_from_slice(&key.sign(crate::procedure::CONTEXT, bytes)),
    };
    if let Ok(document) = SignedDocument::from_wire(&wire) {
        assert_eq!(SignedDocument::from_wire(&document.to_wire()).as_ref(), Ok(&document));
    }
    if let Ok(wire) = v1::SignedProcedures::decode(bytes) {
        let _ = SignedDocument::from_wire(&wire);
    }
    if let Ok(wire) = v1::ChangeRequest::decode(bytes) {
        let _ = Asked::try_from(wire);
    }
    if let Ok(wire) = v1::SetPolicyRequest::decode(bytes) {
        let _ = PolicyChange::try_from(wire);
    }
}

/// The bodies of the manager's state files.
pub fn manager_state(json: &[u8]) {
    let _ = body::<Tokens>(json);
    let _ = body::<Halt>(json);
}

/// What each decoder's fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let haproxy = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n\
        3 app 1 web1 127.0.0.1 2 0 1\n3 app 2 web2 127.0.0.1 2 8 1\n\n===\n\
        # pxname,svname,qcur,scur,status,check_status,\napp,web1,1,2,UP,L7OK,\"a \"\"word\"\"\"\napp,web2,0,0,DRAIN,,\n";
    let nginx = "upstream app {\n    server 10.0.0.1:80 weight=5;  # web1, the first\n\tserver web2;\n\
        server 10.0.0.3:80 down; # web3\n}\nserver 10.0.0.9:80 backup;";
    let change = v1::SetPolicyRequest::default().encode_to_vec();
    vec![
        ("haproxy", vec![haproxy.into()]),
        ("nginx", vec![nginx.into()]),
        ("procedures", vec![br#"{"group":"","epoch":1,"version":1,"next":1,"procedures":[]}"#.to_vec(), change]),
        ("manager_state", vec![serde_json::to_vec(&Tokens::default()).expect("it has JSON")]),
    ]
}
