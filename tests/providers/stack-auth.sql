-- Stack Auth's user tables, as its Prisma schema makes them.
CREATE TYPE "BooleanTrue" AS ENUM ('TRUE');
CREATE TYPE "ContactChannelType" AS ENUM ('EMAIL');
CREATE TABLE "ProjectUser" (
  "tenancyId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  "mirroredProjectId" text NOT NULL,
  "mirroredBranchId" text NOT NULL,
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  "updatedAt" timestamp(3) NOT NULL,
  "lastActiveAt" timestamp(3) NOT NULL DEFAULT now(),
  "signedUpAt" timestamp(3),
  "sequenceId" bigint UNIQUE,
  "shouldUpdateSequenceId" boolean NOT NULL DEFAULT true,
  "displayName" text,
  "serverMetadata" jsonb,
  "clientReadOnlyMetadata" jsonb,
  "clientMetadata" jsonb,
  "profileImageUrl" text,
  "requiresTotpMfa" boolean NOT NULL DEFAULT false,
  "totpSecret" bytea,
  "isAnonymous" boolean NOT NULL DEFAULT false,
  "signUpCountryCode" text,
  "restrictedByAdmin" boolean NOT NULL DEFAULT false,
  "restrictedByAdminReason" text,
  "restrictedByAdminPrivateDetails" text,
  "signUpIp" text,
  "signUpIpTrusted" boolean,
  "signUpEmailNormalized" text,
  "signUpEmailBase" text,
  "signUpRiskScoreBot" smallint,
  "signUpRiskScoreFreeTrialAbuse" smallint,
  "projectId" text,
  PRIMARY KEY ("tenancyId", "projectUserId")
);
CREATE TABLE "ContactChannel" (
  "tenancyId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  id uuid NOT NULL,
  type "ContactChannelType" NOT NULL,
  "isPrimary" "BooleanTrue",
  "usedForAuth" "BooleanTrue",
  "isVerified" boolean NOT NULL,
  value text NOT NULL,
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  "updatedAt" timestamp(3) NOT NULL,
  PRIMARY KEY ("tenancyId", "projectUserId", id),
  UNIQUE ("tenancyId", "projectUserId", type, "isPrimary"),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
CREATE TABLE "PasswordAuthMethod" (
  "tenancyId" uuid NOT NULL,
  "authMethodId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  "passwordHash" text NOT NULL,
  PRIMARY KEY ("tenancyId", "authMethodId"),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
CREATE TABLE "OtpAuthMethod" (
  "tenancyId" uuid NOT NULL,
  "authMethodId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  PRIMARY KEY ("tenancyId", "authMethodId"),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
CREATE TABLE "PasskeyAuthMethod" (
  "tenancyId" uuid NOT NULL,
  "authMethodId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  "credentialId" text NOT NULL, "publicKey" text NOT NULL,
  PRIMARY KEY ("tenancyId", "authMethodId"),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
CREATE TABLE "ProjectUserOAuthAccount" (
  "tenancyId" uuid NOT NULL,
  id uuid NOT NULL,
  "projectUserId" uuid,
  "configOAuthProviderId" text NOT NULL,
  "providerAccountId" text NOT NULL,
  email text,
  PRIMARY KEY ("tenancyId", id),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
CREATE TABLE "TeamMember" (
  "tenancyId" uuid NOT NULL,
  "projectUserId" uuid NOT NULL,
  "teamId" uuid NOT NULL,
  "displayName" text,
  "isSelected" "BooleanTrue",
  PRIMARY KEY ("tenancyId", "projectUserId", "teamId"),
  UNIQUE ("tenancyId", "projectUserId", "isSelected"),
  FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE
);
