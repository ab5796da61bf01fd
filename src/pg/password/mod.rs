//! Passwords that are not in the URL: from a password file as libpq's, or from a command that prints a short-lived token.
//!
//! They are used for each attempt to connect. A command's output is kept until it expires or the server refuses it.

mod command;
mod file;
mod output;

use super::password_source::PasswordSource;
use super::{ConnectError, PgUrl};
use futures_util::future::BoxFuture;

/// Logs in with the URL's password. If the server refuses a command's password that was kept, it logs in once more with a
/// new one.
///
/// # Errors
/// [`ConnectError::Password`] if there is no password; its message has no part of one. Otherwise the error of `log_in`.
pub(crate) async fn with_password<T>(
    url: &PgUrl,
    log_in: impl Fn(&PgUrl) -> BoxFuture<'_, Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let failed = |reason| ConnectError::Password { at: url.to_string(), reason };
    let with = |password| PgUrl { password: Some(password), ..url.clone() };
    let command = match &url.password_from {
        None => return log_in(url).await,
        Some(PasswordSource::File(path)) => {
            return log_in(&with(file::find(path.clone(), url).await.map_err(failed)?)).await;
        }
        Some(PasswordSource::Command(command)) => command,
    };
    let first = command.password(url).await.map_err(failed)?;
    let refused = match log_in(&with(first.password)).await {
        Err(error @ ConnectError::Auth { .. }) => error,
        done => return done,
    };
    command.forget(url);
    if first.is_new {
        return Err(refused);
    }
    log_in(&with(command.password(url).await.map_err(failed)?.password)).await
}
