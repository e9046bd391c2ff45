//! Entry points for fuzzing the decoders of the manager (`fuzz/`): state files, balancers' answers, and requests of
//! commands. Each returns whether the decoder accepted its input.

use bellwether_group::{
    edits::RecordEdit,
    halt::{Halt, Proof},
    procedure::{
        Document, Id, Kind, Procedure, SignedDocument, Step,
        task::{Drain, Sync, Task},
    },
    tokens::{Grant, Tokens},
};
use bellwether_proto::{
    key::KeyPair,
    name::ServerName,
    revision::{Epoch, Number},
    v1,
};
use bellwether_store::state::file::fuzzing::body;
use prost::Message;

use crate::{balancer::fuzzing as balancers, publish::put::Asked};

/// HAProxy's answer to `show servers state`, and after a line `===` to `show stat`.
pub fn haproxy(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(balancers::haproxy)
}

/// An nginx upstream file.
pub fn nginx(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(balancers::nginx)
}

/// The document of procedures, as signed JSON and as a message, and requests of commands.
pub fn procedures(bytes: &[u8]) -> bool {
    let key = KeyPair::generate();
    let wire = v1::SignedProcedures {
        document: bytes::Bytes::copy_from_slice(bytes),
        signer: bytes::Bytes::copy_from_slice(key.public().as_bytes()),
        signature: bytes::Bytes::copy_from_slice(&key.sign(bellwether_group::procedure::CONTEXT, bytes)),
    };
    let signed = SignedDocument::from_wire(&wire);
    if let Ok(document) = &signed {
        assert_eq!(SignedDocument::from_wire(&document.to_wire()).as_ref(), Ok(document));
    }
    let sent = v1::SignedProcedures::decode(bytes).is_ok_and(|wire| SignedDocument::from_wire(&wire).is_ok());
    let change = v1::ChangeRequest::decode(bytes).is_ok_and(|wire| Asked::try_from(wire).is_ok());
    let edit = v1::EditRecordRequest::decode(bytes).is_ok_and(|wire| RecordEdit::try_from(wire.edit).is_ok());
    signed.is_ok() || sent || change || edit
}

/// The bodies of the manager's state files.
pub fn manager_state(json: &[u8]) -> bool {
    let tokens = body::<Tokens>(json);
    if let Some(tokens) = &tokens {
        let again = serde_json::to_vec(tokens).expect("it has JSON");
        assert_eq!(body::<Tokens>(&again).as_ref(), Some(tokens));
    }
    tokens.is_some() || body::<Halt>(json).is_some()
}

fn json(state: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(state).expect("it has JSON")
}

/// The seeds of each decoder.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let haproxy = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n\
        3 app 1 web1 127.0.0.1 2 0 1\n3 app 2 web2 127.0.0.1 2 8 1\n\n===\n\
        # pxname,svname,qcur,scur,status,check_status,\napp,web1,1,2,UP,L7OK,\"a \"\"word\"\"\"\napp,web2,0,0,DRAIN,,\n";
    let nginx = "upstream app {\n    server 10.0.0.1:80 weight=5;  # web1, the first\n\tserver web2;\n\
        server 10.0.0.3:80 down; # web3\n}\nserver 10.0.0.9:80 backup;\nserver down;";
    let server: ServerName = "web1".parse().expect("a name");
    let mut document = Document::empty([7; 16].into());
    for (id, kind) in [
        (1, Kind::MaintenanceStart { server: server.clone(), promote: None, remove: false }),
        (2, Kind::ServerReplace { server: server.clone(), ttl_ms: 60_000 }),
    ] {
        let tasks: [Task; 2] = [Drain(vec![server.clone()]).into(), Sync(vec![server.clone()]).into()];
        let step = |task| Step { task, why: "why".to_owned(), noted: None };
        let steps = tasks.map(step).into();
        document.put(Procedure::new(Id(id), kind, steps, "root".to_owned(), 1));
    }
    let signed = SignedDocument::sign(document.clone(), &KeyPair::generate()).expect("it is short");
    let content = v1::FileContent { data: b"content".as_slice().into(), mode: Some(0o644) };
    let change = v1::ChangeRequest {
        set: "nginx".to_owned(),
        path: b"nginx.conf".as_slice().into(),
        change: Some(v1::change_request::Change::Put(content)),
        ..Default::default()
    };
    let policy = v1::SetPolicy {
        publish: Some("manual".to_owned()),
        codec: Some("deflate:1".to_owned()),
        balancers: vec!["lb=haproxy:tcp:10.0.0.1:9999".to_owned()],
        ..Default::default()
    };
    let edit = Some(v1::edit_record_request::Edit::SetPolicy(policy));
    let edit = v1::EditRecordRequest { edit, ..Default::default() };
    let mut tokens = Tokens::default();
    let grant = Grant { uses: 2, ttl_ms: 60_000, names: "web*".to_owned(), replaces: false };
    tokens.create(grant, 1).expect("it is sound");
    let number = Number { epoch: Epoch(1), sequence: 2 };
    let mut halt = Halt::new(server, Proof::Revision(number));
    halt.lacks.push((number, "message".to_owned()));
    vec![
        ("haproxy", vec![haproxy.into()]),
        ("nginx", vec![nginx.into()]),
        (
            "procedures",
            vec![json(&document), signed.to_wire().encode_to_vec(), change.encode_to_vec(), edit.encode_to_vec()],
        ),
        ("manager_state", vec![json(&Tokens::default()), json(&tokens), json(&halt)]),
    ]
}
