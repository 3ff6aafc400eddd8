-- What a new region begins with, so that there is something to audit: wards and two forms. No revisions are made here; the
-- maintenance makes the first one of each form.

INSERT INTO "Wards" ("Code", "Name") VALUES
    ('ICU', 'Intensive care'), ('ED', 'Emergency department'), ('MED-1', 'Medical ward 1'), ('SURG-2', 'Surgical ward 2'),
    ('PAED', 'Paediatrics');

INSERT INTO "Forms" ("Title", "Description", "IsPublished") VALUES
    ('Hand hygiene', 'Five moments of hand hygiene, observed on the ward for twenty minutes.', true),
    ('Medication storage', 'How medicines are kept on the ward: locks, temperatures, dates.', true);

INSERT INTO "Questions" ("FormId", "Position", "Text", "Help", "Kind", "Weight", "IsCritical", "Low", "High", "Choices")
SELECT f."Id", q.* FROM "Forms" f, (VALUES
    (1, 'Are hands cleaned before touching a patient?', 'Moment 1', 'yes-no', 3, true, NULL::double precision, NULL::double precision, '{}'::text[]),
    (2, 'Are hands cleaned before a clean or aseptic procedure?', 'Moment 2', 'yes-no', 3, true, NULL, NULL, '{}'),
    (3, 'Are hands cleaned after body fluid exposure risk?', 'Moment 3', 'yes-no', 3, false, NULL, NULL, '{}'),
    (4, 'Are hands cleaned after touching a patient?', 'Moment 4', 'yes-no', 2, false, NULL, NULL, '{}'),
    (5, 'Are hands cleaned after touching patient surroundings?', 'Moment 5', 'yes-no', 2, false, NULL, NULL, '{}'),
    (6, 'Is hand rub at the point of care?', 'The first answer is the right one.', 'choice', 1, false, NULL, NULL, '{At each bed,At some beds,Nowhere}'),
    (7, 'What stood in the way?', '', 'text', 1, false, NULL, NULL, '{}')
) q WHERE f."Title" = 'Hand hygiene';

INSERT INTO "Questions" ("FormId", "Position", "Text", "Help", "Kind", "Weight", "IsCritical", "Low", "High", "Choices")
SELECT f."Id", q.* FROM "Forms" f, (VALUES
    (1, 'Is the medicine room locked?', '', 'yes-no', 3, true, NULL::double precision, NULL::double precision, '{}'::text[]),
    (2, 'Temperature of the refrigerator', 'Degrees Celsius; 2 to 8 is right.', 'number', 3, true, 2, 8, '{}'),
    (3, 'Is the register of controlled drugs complete?', '', 'yes-no', 2, true, NULL, NULL, '{}'),
    (4, 'Are opened vials dated?', '', 'yes-no', 1, false, NULL, NULL, '{}'),
    (5, 'Which medicine was found past its date?', 'Leave it empty where there was none.', 'medicine', 1, false, NULL, NULL, '{}')
) q WHERE f."Title" = 'Medication storage';
