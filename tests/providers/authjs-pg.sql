-- The users table of Auth.js' pg adapter, as its documentation has it.
CREATE TABLE users (
  id serial PRIMARY KEY,
  name varchar(255),
  email varchar(255),
  "emailVerified" timestamptz,
  image text
);
