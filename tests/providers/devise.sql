-- What Devise's generator writes, with a name and a soft delete of the discard gem.
CREATE TABLE users (
  id bigserial PRIMARY KEY,
  email varchar NOT NULL DEFAULT '' UNIQUE,
  encrypted_password varchar NOT NULL DEFAULT '',
  reset_password_token varchar UNIQUE,
  reset_password_sent_at timestamp(6),
  remember_created_at timestamp(6),
  confirmation_token varchar,
  unlock_token varchar,
  name varchar,
  created_at timestamp(6) NOT NULL,
  updated_at timestamp(6) NOT NULL,
  discarded_at timestamp(6)
);
