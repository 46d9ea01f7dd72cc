-- The pool of instructions: those that were added to the ones in the package.

-- name: list_instructions
-- All that were added.
SELECT i.name, i.instruction FROM _qwen_embed.instruction i ORDER BY i.name;

-- name: add_instruction
-- Adds one. No row: the name is taken.
INSERT INTO _qwen_embed.instruction (name, instruction) VALUES (%(name)s, %(instruction)s)
ON CONFLICT DO NOTHING
RETURNING name;

-- name: remove_instruction
-- Removes one. No row: there was none of that name. Embeddings have their instruction as text, and keep it.
DELETE FROM _qwen_embed.instruction WHERE name = %(name)s RETURNING name;
