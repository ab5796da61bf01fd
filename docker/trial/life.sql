-- One second of the trial: a sign-up, a changed name, and now and then a deleted account.
INSERT INTO auth.users (organization, full_name, email)
SELECT (ARRAY['acme', 'globex'])[1 + floor(random() * 2)::int], 'Newcomer ' || n, 'newcomer' || n || '@example.com'
FROM (SELECT floor(random() * 1000000)::int AS n) AS drawn;
UPDATE auth.users SET full_name = full_name || ' the ' || floor(random() * 100)::int || 'th', updated_at = now()
WHERE id = (SELECT id FROM auth.users WHERE length(full_name) < 60 ORDER BY random() LIMIT 1);
DELETE FROM auth.users
WHERE random() < 0.2 AND id = (SELECT id FROM auth.users ORDER BY random() LIMIT 1);
