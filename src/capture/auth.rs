//! The login of a replication connection: SCRAM-SHA-256 with and without channel binding, md5, and clear text
//! on a private connection (manual: "Start-up", "SASL Authentication"). Does not handle messages after AuthenticationOk.

use super::CaptureError;
use super::wire::{Reply, Wire};
use crate::pg::{CLEARTEXT, ChannelBinding, ConnectError, PgUrl};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

/// Answers the server's authentication requests until AuthenticationOk.
pub(super) async fn authenticate(wire: &mut Wire, url: &PgUrl) -> Result<(), CaptureError> {
    let refuse = |reason: &str| CaptureError::from(ConnectError::auth(url, reason));
    let password = || {
        let password = url.password.as_ref().map(|secret| secret.0.as_bytes());
        password.ok_or_else(|| refuse("the server asks for a password and the URL has none"))
    };
    match expect(wire).await? {
        Message::AuthenticationSasl(offer) => return scram(wire, url, &offer, password()?).await,
        _ if url.channel_binding == ChannelBinding::Require => {
            return Err(refuse("channel_binding=require, but the server asks for no SCRAM login"));
        }
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationMd5Password(body) => {
            let answer = md5_hash(url.user.as_bytes(), password()?, body.salt());
            wire.send(|out| frontend::password_message(answer.as_bytes(), out)).await?;
        }
        Message::AuthenticationCleartextPassword if wire.stream.is_private(url) => {
            let answer = password()?;
            wire.send(|out| frontend::password_message(answer, out)).await?;
        }
        Message::AuthenticationCleartextPassword => {
            return Err(refuse(CLEARTEXT));
        }
        Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationGss
        | Message::AuthenticationSspi => {
            return Err(refuse("the server asks for a kind of login that is not supported (GSSAPI, SSPI or another)"));
        }
        _ => return Err(CaptureError::protocol("no request for a login")),
    }
    match expect(wire).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(CaptureError::protocol("no AuthenticationOk after the password")),
    }
}

async fn scram(
    wire: &mut Wire,
    url: &PgUrl,
    offer: &AuthenticationSaslBody,
    password: &[u8],
) -> Result<(), CaptureError> {
    let refuse = |reason: &dyn std::fmt::Display| CaptureError::from(ConnectError::auth(url, reason));
    let mechanisms: Vec<&str> =
        offer.mechanisms().collect().map_err(|error| CaptureError::Protocol(error.to_string()))?;
    let plan = plan_scram(&mechanisms, wire.stream.channel_binding(), url.channel_binding)
        .map_err(|reason| refuse(&reason))?;
    let (mechanism, binding) = match plan {
        Scram::Bound(hash) => (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
        Scram::BindingNotOffered => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        Scram::Unbound => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };

    let mut exchange = ScramSha256::new(password, binding);
    wire.send(|out| frontend::sasl_initial_response(mechanism, exchange.message(), out)).await?;
    let Message::AuthenticationSaslContinue(challenge) = expect(wire).await? else {
        return Err(CaptureError::protocol("no AuthenticationSASLContinue"));
    };
    exchange.update(challenge.data()).map_err(|error| refuse(&error))?;
    wire.send(|out| frontend::sasl_response(exchange.message(), out)).await?;
    // AuthenticationOk must not come before AuthenticationSASLFinal: the server has to prove that it knows
    // the password.
    let Message::AuthenticationSaslFinal(proof) = expect(wire).await? else {
        return Err(CaptureError::protocol("no AuthenticationSASLFinal"));
    };
    exchange.finish(proof.data()).map_err(|error| refuse(&error))?;
    match expect(wire).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(CaptureError::protocol("no AuthenticationOk after AuthenticationSASLFinal")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Scram {
    /// SCRAM-SHA-256-PLUS, with this hash of the server's certificate.
    Bound(Vec<u8>),
    /// We support binding and the server did not offer it. The message says so, and the server detects a removed
    /// offer.
    BindingNotOffered,
    /// Binding is not possible, or is disabled.
    Unbound,
}

fn plan_scram(offered: &[&str], binding: Option<Vec<u8>>, wanted: ChannelBinding) -> Result<Scram, &'static str> {
    let binding = binding.filter(|_| wanted != ChannelBinding::Disable);
    let plan = match binding {
        Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => return Ok(Scram::Bound(hash)),
        Some(_) => Scram::BindingNotOffered,
        None => Scram::Unbound,
    };
    if wanted == ChannelBinding::Require {
        return Err(match plan {
            Scram::Unbound => {
                "channel_binding=require, but there is no TLS, or the server's certificate allows no channel binding"
            }
            _ => "channel_binding=require, but the server does not offer SCRAM-SHA-256-PLUS",
        });
    }
    if !offered.contains(&SCRAM_SHA_256) {
        return Err("the server offers no SASL mechanism that is supported (SCRAM-SHA-256)");
    }
    Ok(plan)
}

/// Receives the next message that is not a notice.
async fn expect(wire: &mut Wire) -> Result<Message, CaptureError> {
    loop {
        match wire.receive().await? {
            Reply::Message(Message::NoticeResponse(_)) => {}
            Reply::Message(message) => return Ok(message),
            Reply::CopyBoth => return Err(CaptureError::protocol("CopyBothResponse before the login")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[&str] = &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    const PLAIN: &[&str] = &[SCRAM_SHA_256];

    /// `bindable`: TLS with a certificate that has a hash. `Err(())` if the plan must be an error.
    fn check(offered: &[&str], bindable: bool, wanted: ChannelBinding, expected: Result<Scram, ()>) {
        let seen = plan_scram(offered, bindable.then(|| vec![1]), wanted).map_err(|_| ());
        assert_eq!(seen, expected, "{offered:?} {bindable} {wanted:?}");
    }

    #[test]
    fn channel_binding_is_used_if_both_sides_can_and_never_dropped_when_required() {
        use ChannelBinding::{Disable, Prefer, Require};
        check(BOTH, true, Prefer, Ok(Scram::Bound(vec![1])));
        check(BOTH, true, Require, Ok(Scram::Bound(vec![1])));
        check(BOTH, true, Disable, Ok(Scram::Unbound));
        check(BOTH, false, Prefer, Ok(Scram::Unbound));
        check(BOTH, false, Require, Err(()));
        check(PLAIN, true, Prefer, Ok(Scram::BindingNotOffered));
        check(PLAIN, true, Require, Err(()));
        check(PLAIN, true, Disable, Ok(Scram::Unbound));
        check(PLAIN, false, Prefer, Ok(Scram::Unbound));
        check(PLAIN, false, Require, Err(()));
        check(&["OAUTHBEARER"], true, Prefer, Err(()));
        check(&[], false, Prefer, Err(()));
    }
}
