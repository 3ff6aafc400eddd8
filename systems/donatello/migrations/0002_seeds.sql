-- One organisation with three departments, and the models that this version can call. Prices, service levels and quality are
-- a price sheet of the example's own.
INSERT INTO organizations (id, name, domain) VALUES
    ('0a000000-0000-4000-8000-000000000001', 'Harbour Media', 'harbour.example');

INSERT INTO departments (id, organization_id, name, code, profile) VALUES
    ('0d000000-0000-4000-8000-000000000001', '0a000000-0000-4000-8000-000000000001', 'Marketing', 'MARKETING', 'balanced'),
    ('0d000000-0000-4000-8000-000000000002', '0a000000-0000-4000-8000-000000000001', 'Product', 'PRODUCT', 'quality'),
    ('0d000000-0000-4000-8000-000000000003', '0a000000-0000-4000-8000-000000000001', 'Operations', 'OPERATIONS', 'cost');

INSERT INTO department_budgets (department_id, monthly_budget_aud, enforcement_mode) VALUES
    ('0d000000-0000-4000-8000-000000000001', 50.00, 'hard'),
    ('0d000000-0000-4000-8000-000000000002', 80.00, 'warn'),
    ('0d000000-0000-4000-8000-000000000003', 20.00, 'soft');

INSERT INTO model_providers (id, provider_name, model_name, title, region, is_ai, commercial_use, cost_per_image_aud, sla_percentage, quality, typical_ms) VALUES
    ('azure-openai', 'azure-openai', 'dall-e-3', 'Azure OpenAI DALL-E 3', 'australiaeast', true, true, 0.0600, 99.90, 98, 6000),
    ('replicate', 'replicate', 'sdxl', 'Replicate SD XL', 'us', true, true, 0.0200, 99.50, 70, 8000),
    ('renderer', 'renderer', 'procedural', 'Built-in renderer', 'australiaeast', false, true, 0.0100, 99.99, 20, 900);

INSERT INTO provider_health (model_id) SELECT id FROM model_providers;
