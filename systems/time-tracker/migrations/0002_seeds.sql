INSERT INTO "Projects" ("Code", "Name", "Description") VALUES
    ('INTERNAL', 'Internal', 'Work for the office itself'),
    ('PROJECT-A', 'Project A', 'The first customer project'),
    ('TRAINING', 'Training', 'Learning and teaching');

INSERT INTO "WorkTypes" ("Code", "Name") VALUES
    ('ADMIN', 'Administration'),
    ('DEV', 'Development'),
    ('MEET', 'Meetings'),
    ('SUPPORT', 'Support'),
    ('DEVOPS', 'DevOps'),
    ('TEST', 'Testing'),
    ('TRAIN', 'Training');
